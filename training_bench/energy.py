"""Energy: joules of a block from counters that the hardware keeps, per image, with what idle takes shown apart.

    RAPL   /sys/class/powercap/intel-rapl:P/energy_uj, microjoules of package P; intel-rapl:P:S, named dram, beside it
           (Linux powercap, also on AMD).  It wraps at max_energy_range_uj, and since Linux 5.10 only root may read it.
    NVML   nvmlDeviceGetTotalEnergyConsumption, millijoules since the driver was loaded (Volta and later)

A counter that wraps is only good for as long as it cannot have wrapped twice; a longer block has no figure.  Where
nothing counts there is no figure either, and the reason stands in its place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..results.record import Metric, not_measured
from ..results.stats import summarise

POWERCAP = Path("/sys/class/powercap")
MOST_WATTS = 1000.0  # of one package with its memory: what no counter is outrun by
UNITS = {
    "joules_per_image": "J/image",
    "idle_joules_per_image": "J/image",
    "power_w": "W",
    "images_per_joule": "images/J",
}


@dataclass(frozen=True, slots=True)
class EnergyCounter:
    """One counter: its name, how it is read in joules, and where it starts again from 0."""

    name: str
    read_joules: Callable[[], float]
    range_joules: float | None = None

    def moved(self, before: float, after: float, seconds: float) -> float | None:
        """Joules between two readings; None where it may have wrapped more than once."""
        if self.range_joules is None:
            return after - before
        if seconds * MOST_WATTS > self.range_joules:
            return None
        return (after - before) % self.range_joules


@dataclass(frozen=True, slots=True)
class EnergyCounters:
    """What counts energy here, and why the rest does not."""

    counters: tuple[EnergyCounter, ...]
    reason: str

    def read(self) -> tuple[float, ...]:
        """All counters, in joules."""
        return tuple(counter.read_joules() for counter in self.counters)

    def since(self, before: Sequence[float], seconds: float) -> dict[str, float] | None:
        """Joules of each counter since `before`; None where one has none to tell."""
        moved = {
            counter.name: counter.moved(was, now, seconds)
            for counter, was, now in zip(self.counters, before, self.read(), strict=True)
        }
        known = {name: joules for name, joules in moved.items() if joules is not None}
        return known if known and len(known) == len(moved) else None


def energy_counters(*, packages: bool = True, gpus: Sequence[str] = (), root: Path = POWERCAP) -> EnergyCounters:
    """The counters of this host's packages, and of these GPUs where any are named.

    GPUs are told by PCI address (0000:3b:00.0): NVML's numbers are not a process's where CUDA_VISIBLE_DEVICES is set,
    nor where a machine has GPUs of several kinds.
    """
    found, why = _rapl(root) if packages else ([], [])
    for gpu in gpus:
        counter = _nvml(gpu)
        if isinstance(counter, EnergyCounter):
            found.append(counter)
        else:
            why.append(counter)
    return EnergyCounters(tuple(found), "; ".join(why))


def _rapl(root: Path) -> tuple[list[EnergyCounter], list[str]]:
    """Packages, and memory where it is counted beside them."""
    zones = sorted(root.glob("intel-rapl:*"))
    if not zones:
        return [], [f"no package counts its energy (no intel-rapl in {root})"]
    found: list[EnergyCounter] = []
    for zone in zones:
        try:
            name = (zone / "name").read_text().strip()
            if not name.startswith("package") and name != "dram":
                continue  # cores are counted in their package, and psys is the platform
            reach = int((zone / "max_energy_range_uj").read_text()) / 1e6
            (zone / "energy_uj").read_text()
        except (OSError, ValueError) as error:
            return [], [f"{zone}: package energy cannot be read ({error}); only root may, give it to root"]
        found.append(EnergyCounter(f"{zone.name.removeprefix('intel-')} {name}", _reading(zone / "energy_uj"), reach))
    return found, [] if found else [f"{root}: no package among {[zone.name for zone in zones]}"]


def _reading(path: Path) -> Callable[[], float]:
    return lambda: int(path.read_text()) / 1e6


def _nvml(address: str) -> EnergyCounter | str:
    """The counter of the GPU at a PCI address, or why there is none."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByPciBusId(address.encode())
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except ImportError:
        return f"GPU {address}: NVML is not installed (the extra gpu)"
    except pynvml.NVMLError as error:
        return f"GPU {address}: NVML does not count its energy ({error})"
    return EnergyCounter(f"gpu {address}", lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)


def idle_watts(counters: EnergyCounters, *, seconds: float = 1.0) -> float | None:
    """What all counters together show while this program does nothing; None where there are none."""
    if not counters.counters:
        return None
    before, begin = counters.read(), time.perf_counter()
    time.sleep(seconds)
    spent = time.perf_counter() - begin
    joules = counters.since(before, spent)
    return None if joules is None else sum(joules.values()) / spent


@dataclass(frozen=True, slots=True)
class BlockEnergy:
    """What one block took on all hosts: joules, seconds, images."""

    joules: float | None
    seconds: float
    images: int


class EnergyMeter:
    """A block's energy on this host, as one rank of it reads it; says nothing on ranks that do not."""

    def __init__(self, counters: EnergyCounters | None) -> None:
        self._counters = counters
        self._before: tuple[float, ...] = ()
        self._begin = 0.0

    def start(self) -> None:
        """The block begins."""
        if self._counters is not None:
            self._before, self._begin = self._counters.read(), time.perf_counter()

    def stop(self) -> dict[str, Any] | None:
        """Seconds since the start, and the joules of each counter or the reason why there are none."""
        if self._counters is None:
            return None
        seconds = time.perf_counter() - self._begin
        joules = self._counters.since(self._before, seconds) if self._counters.counters else None
        reason = self._counters.reason or f"a counter may have wrapped more than once in {seconds:.0f} s"
        left_out = f"without what is not counted: {self._counters.reason}" if self._counters.reason else None
        return {"seconds": seconds, "joules": joules, "reason": left_out if joules else reason}


def block_energy(told: Sequence[Mapping[str, Any] | None], *, images: int) -> tuple[BlockEnergy, str | None]:
    """What EnergyMeters told of one block, all of them or nothing; and why it is nothing, or what it leaves out."""
    read = [each for each in told if each is not None]
    whole = read and all(each["joules"] is not None for each in read)
    joules = sum(sum(each["joules"].values()) for each in read) if whole else None
    seconds = max((each["seconds"] for each in read), default=0.0)
    return BlockEnergy(joules, seconds, images), next((each["reason"] for each in read if each["reason"]), None)


def energy_metrics(
    blocks: Sequence[BlockEnergy], *, idle_w: float | None, reason: str | None, num_hosts: int = 1
) -> dict[str, Metric]:
    """Energy per image, of it what the machines take when idle, power, and images per joule (which is images/s/W).

    `idle_w` is one host's.  All are null with `reason` where a block was not counted; else it says what is left out.
    """
    counted = [(block.joules, block) for block in blocks if block.joules and block.images]
    if not counted or len(counted) != len(blocks):
        return {name: not_measured(unit, reason or "no block was counted") for name, unit in UNITS.items()}
    samples: Mapping[str, list[float]] = {
        "joules_per_image": [joules / block.images for joules, block in counted],
        "power_w": [joules / block.seconds for joules, block in counted],
        "images_per_joule": [block.images / joules for joules, block in counted],
        "idle_joules_per_image": [(idle_w or 0.0) * num_hosts * block.seconds / block.images for _, block in counted],
    }
    found = {name: summarise(samples[name], unit=unit) for name, unit in UNITS.items()}
    found = {name: metric.model_copy(update={"reason": reason}) for name, metric in found.items()}
    if idle_w is None:
        found["idle_joules_per_image"] = not_measured("J/image", "idle power was not measured")
    return found
