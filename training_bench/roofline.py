"""The roofline of a training: how fast each part of the machine alone would let it go, and which one it is under.

    images/s
      |-------- compute ---------   FLOP/s of a matrix product  / FLOPs of an image
      |----- memory bandwidth ---   bytes/s of a copy           / bytes an image moves through memory
      |------ host to device ----   bytes/s of a pinned copy    / bytes of an image
      |--------- storage --------   what the loader gives to ranks that compute nothing
      |         * measured          under the lowest roof; the next one says what fixing that would bring

The classical roofline (Williams, Waterman and Patterson 2009) has the first two, over the arithmetic intensity.  Here
everything is said in images per second, so that a storage can be a roof as well.  A roof that does not apply, or cannot
be measured, is null with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from ..results.record import Metric, Point, not_measured
from ..results.stats import summarise
from .models import build_model, model_info

Params = dict[str, str | int | float | bool | None]
RoofName = Literal["compute", "memory_bandwidth", "decode", "host_to_device", "storage"]

COUNTED_BATCH = 8
TITLES: dict[str, str] = {
    "compute": "compute",
    "memory_bandwidth": "memory bandwidth",
    "decode": "decoding",
    "host_to_device": "host to device",
    "storage": "storage",
}


@dataclass(frozen=True, slots=True)
class Work:
    """What one image costs a training step: floating-point operations, and bytes moved through memory.

    A multiply-add is two operations.  The bytes are those of every operator's inputs and outputs: what moves where no
    operator is fused with the next and no cache helps, hence an upper bound, and a roof made of it a low one.
    """

    flops: float
    memory_bytes: float

    @property
    def intensity(self) -> float:
        """Operations for each byte."""
        return self.flops / self.memory_bytes


@cache
def training_work(model: str, *, rows: int, columns: int, training: bool = True) -> Work:
    """Count the operations and bytes of forward and backward pass on images of this size, without computing anything.

    Networks run on torch's meta device, which knows shapes only; in 4-byte floats.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model_info(model)
    with torch.device("meta"):
        network = build_model(model)
        images = torch.empty(COUNTED_BATCH, 3, rows, columns)
    network.train(training)
    traffic = _traffic()
    with FlopCounterMode(display=False) as flops, traffic, torch.set_grad_enabled(training):
        answers = network(images)
        if training:
            (answers if isinstance(answers, torch.Tensor) else answers[0]).sum().backward()
    return Work(flops.get_total_flops() / COUNTED_BATCH, traffic.num_bytes / COUNTED_BATCH)


def _traffic() -> Any:
    """A mode that counts the bytes of all tensors that go into and come out of operators; views move nothing."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
        num_bytes = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if not func.is_view:
                tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)]
                self.num_bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            return out

    return Traffic()  # type: ignore[no-untyped-call]  # torch's


@dataclass(frozen=True, slots=True)
class Roof:
    """One roof: its rate in its own unit over time blocks, and how much of it an image takes.

    Without samples `reason` says why there is no such roof.
    """

    name: RoofName
    unit: str
    samples: tuple[float, ...] = ()
    per_image: float = 1.0
    reason: str | None = None
    source: str = "measured"

    @property
    def rate(self) -> Metric:
        """The rate itself."""
        return summarise(self.samples, unit=self.unit, reason=self.reason)

    @property
    def images_per_s(self) -> Metric:
        """How many images a second it would let through."""
        return summarise([sample / self.per_image for sample in self.samples], unit="images/s", reason=self.reason)


def no_roof(name: RoofName, unit: str, reason: str) -> Roof:
    """A roof that is not there."""
    return Roof(name, unit, reason=reason)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a measured rate stands: under which roof, how much of it, and the next roof over that as a ratio to it."""

    images_per_s: float
    lowest: RoofName
    reached: float
    next_roof: RoofName | None
    distance: float | None

    @property
    def text(self) -> str:
        """What it says, for people."""
        seen = f"{self.images_per_s:,.0f} images/s, {self.reached:.0%} of the lowest roof, {TITLES[self.lowest]}"
        if self.next_roof is None or self.distance is None:
            return f"Roofline: {seen}; no other roof was measured."
        return f"Roofline: {seen}; the next, {TITLES[self.next_roof]}, is {self.distance:.2f} times as high."


def standing(roofs: Sequence[Roof], images_per_s: float) -> Standing | None:
    """Where `images_per_s` stands among these roofs; None without any."""
    heights = sorted((value, roof.name) for roof in roofs if (value := roof.images_per_s.value))
    if not heights:
        return None
    lowest, name = heights[0]
    above = heights[1] if len(heights) > 1 else None
    return Standing(
        images_per_s=images_per_s,
        lowest=name,
        reached=images_per_s / lowest,
        next_roof=above[1] if above else None,
        distance=above[0] / lowest if above else None,
    )


def roofline_points(roofs: Sequence[Roof], measured: Point, *, about: Params) -> list[Point]:
    """One point a roof with the share of it that was reached, lowest and next flagged; then what was measured."""
    rate = measured.metrics["images_per_s"]
    where = None if rate.value is None else standing(roofs, rate.value)
    return [*(_roof_point(roof, rate, where, about) for roof in roofs), _measured_point(rate, where, about)]


def _roof_point(roof: Roof, measured: Metric, where: Standing | None, about: Params) -> Point:
    height = roof.images_per_s
    if height.value and measured.value is not None:
        reached = _share(measured.value / height.value, measured)
    else:
        reached = not_measured("fraction", height.reason or measured.reason or "nothing was measured")
    flags = []
    if where is not None and roof.name == where.lowest:
        flags.append("lowest")
    if where is not None and roof.name == where.next_roof:
        flags.append("next")
    return Point(
        params={"stage": "roofline", "roof": roof.name, "roof_source": roof.source, **about},
        metrics={"images_per_s": height, "roof_rate": roof.rate, "roof_reached_fraction": reached},
        flags=tuple(flags),
    )


def _measured_point(measured: Metric, where: Standing | None, about: Params) -> Point:
    """What was measured: the share of the lowest roof, and how many times as high as that one the next is."""
    none = measured.reason or "no roof was measured"
    only = "no other roof was measured" if where else none
    reached = _share(where.reached, measured) if where else not_measured("fraction", none)
    above = where.distance if where else None
    return Point(
        params={"stage": "roofline", "roof": "measured", **about},
        metrics={
            "images_per_s": measured,
            "roof_reached_fraction": reached,
            "next_roof_ratio": not_measured("x", only) if above is None else _share(above, measured, unit="x"),
        },
    )


def _share(value: float, measured: Metric, *, unit: str = "fraction") -> Metric:
    return Metric(value=value, unit=unit, n=measured.n)


def roofline_lines(points: Sequence[Point]) -> str:
    """A line a roof, the lowest first."""
    roofs = [point for point in points if point.params.get("roof") in TITLES]
    return "\n".join(_line(point) for point in sorted(roofs, key=_height))


def _height(point: Point) -> float:
    return point.metrics["images_per_s"].value or float("inf")


def _line(point: Point) -> str:
    names = ("images_per_s", "roof_rate", "roof_reached_fraction")
    height, rate, reached = (point.metrics[name] for name in names)
    name = f"roof {TITLES[str(point.params['roof'])]:<18}"
    if height.value is None or rate.value is None:
        return f"{name}none: {height.reason}"
    share = "" if reached.value is None else f", {reached.value:.1%} of it reached"
    own = "" if rate.unit == height.unit else f" ({rate.value:,.1f} {rate.unit})"
    return f"{name}{height.value:>10,.0f} images/s{own}, {point.params['roof_source']}{share}"
