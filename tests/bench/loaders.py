"""How fast our loader is beside bare loops and other loaders, and what it was asked to be.

    python tests/bench/loaders.py                        all heats: about ten minutes, 4 GB in a temporary folder
    python tests/bench/loaders.py --only copy,cold       some of them
    python tests/bench/loaders.py --keep                 and put the record into results/reference/

A heat is one contest: its roads run in interleaved time blocks, each in a process of its own, and every ratio is of
pairs of blocks of one round.  What is not there yet (an engine, a format, a package) is left out and named.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from parts.record import keep, record_of, run

from iobench.loaders.engines.choice import EngineName
from iobench.loaders.engines.readers import direct_refused
from iobench.loaders.formats.example import encode_example
from iobench.loaders.formats.tfrecord import frame
from iobench.loaders.roads.baselines import missing
from iobench.loaders.roads.road import RoadOptions
from iobench.results.environment import collect
from iobench.results.record import Metric, Point, RunRecord, utc_now
from iobench.storage_bench.contest import Contestant, best_of, interleave, open_contest, ratio
from iobench.storage_bench.evidence import doubts
from iobench.storage_bench.generate import Generate, generate
from iobench.storage_bench.peers import point_of
from iobench.terminal import Screen, figure, say, table

SIZE = 300
WARM = RoadOptions(batch_size=256, threads=2)
COLD = RoadOptions(batch_size=64, threads=2, cold=True)  # a cold block is one pass, of many batches
ENGINES = [name for name in ("buffered", "mmap") if name in get_args(EngineName)]
BEST_ENGINE: Any = ENGINES[-1]


@dataclass(frozen=True)
class Claim:
    """ours / theirs of a metric, and what is asked of it, if anything; of several `theirs` the best counts."""

    name: str
    ours: str
    theirs: Sequence[str]
    asked: float | None
    rule: Literal["at least", "at most"] = "at least"
    metric: str = "images_per_s"


@dataclass
class Heat:
    """One contest: labelled contestants, the claims on them, and what had to be left out."""

    contestants: dict[str, Contestant] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


class Bench:
    """The data, made when first asked for, and how long a block is."""

    def __init__(self, folder: Path, *, num_images: int, seconds: float) -> None:
        self._folder = folder
        self.num_images = num_images
        self.seconds = seconds

    def raw(self, *, num_images: int = 0, size: int = SIZE, shards: int = 16, kind: str = "tfrecord") -> Path:
        """Generated shards: records at one stride."""
        count = num_images or self.num_images
        folder = self._folder / f"{kind}-{count}-{size}-{shards}"
        settings: Any = {"num_images": count, "size": size, "images_per_shard": -(-count // shards), "format": kind}
        if not folder.exists():
            say(f"writing {count} images as {kind} into {shards} shards")
            generate(folder, Generate(**settings))
        return folder

    def varied(self) -> Path:
        """Shards as most tools write them: canonical varints, so that records with labels 1..127 are a byte shorter."""
        folder = self._folder / "varied"
        if folder.exists():
            return folder
        say(f"writing {self.num_images} images with canonical varints")
        folder.mkdir()
        random = np.random.default_rng(0)
        pixels, labels = random.bytes(SIZE * SIZE * 3 + 4096), random.integers(1, 1001, self.num_images).tolist()
        for shard, mine in enumerate(np.array_split(np.arange(self.num_images), 16)):
            with (folder / f"part-{shard:05d}.tfrecord").open("wb") as file:
                for i in mine.tolist():
                    file.write(_canonical(pixels[i % 4096 :][: SIZE * SIZE * 3], labels[i], i))
                file.flush()
                os.fsync(file.fileno())
        return folder

    def add(self, heat: Heat, label: str, road: str, path: Path, options: RoadOptions, consumer: Any = "copy") -> None:
        """One road as it is given, or left out where its package is missing."""
        if reason := missing(road):
            heat.left_out.append(reason)
            return
        contest = open_contest(path, options, consumer=consumer, seconds=self.seconds)
        heat.contestants[label] = Contestant(road, options, contest)

    def add_best(self, heat: Heat, road: str, path: Path, options: RoadOptions) -> None:
        """The fastest way to take a road."""
        if reason := missing(road):
            heat.left_out.append(reason)
            return
        contest = open_contest(path, options, consumer="copy", seconds=self.seconds)
        heat.contestants[road] = best_of(road, options, contest)
        say(f"{road}: {heat.contestants[road].why}")


def touch_heat(bench: Bench) -> Heat:
    """One byte of each page is read; without the mmap engine, whose pages nobody would have read."""
    heat, path = Heat(), bench.raw()
    bench.add(heat, "ours buffered", "iobench", path, replace(WARM, engine="buffered"), "touch")
    bench.add(heat, "preadv fresh", "preadv", path, replace(WARM, variant="fresh"), "touch")
    heat.claims = [Claim("touch: ours / preadv into fresh batches", "ours buffered", ["preadv fresh"], 0.95)]
    return heat


def copy_heat(bench: Bench) -> Heat:
    """Every byte is copied on; records at one stride."""
    heat = _copied(bench, bench.raw())
    ours = f"ours {BEST_ENGINE}"
    heat.claims = [
        Claim("copy: ours / preadv into fresh batches", ours, ["preadv fresh"], 1.2),
        Claim("copy: ours / preadv into a ring of buffers", ours, ["preadv", "preadv 1 reader"], None),
        Claim("copy: ours / DALI", ours, ["dali"], 2.5),
        Claim("copy: ours / torch", ours, ["torch"], 3.5),
        Claim("copy: CPU s/GB of ours / DALI's", ours, ["dali"], 0.65, "at most", "cpu_seconds_per_gb"),
    ]
    return heat


def varied_heat(bench: Bench) -> Heat:
    """Every byte is copied on; records of two lengths."""
    heat = _copied(bench, bench.varied())
    ours = f"ours {BEST_ENGINE}"
    heat.claims = [
        Claim("varied: ours / preadv into fresh batches", ours, ["preadv fresh"], 0.9),
        Claim("varied: ours / preadv into a ring of buffers", ours, ["preadv", "preadv 1 reader"], None),
        Claim("varied: ours / DALI", ours, ["dali"], 1.9),
        Claim("varied: ours / torch", ours, ["torch"], 2.8),
    ]
    return heat


def cold_heat(bench: Bench) -> Heat:
    """From the device, in the order on disk and in a random one."""
    heat, path = Heat(), bench.raw()
    if reason := direct_refused(next(path.glob("*.tfrecord"))):
        heat.left_out.append(f"cold: {reason}")
        return heat
    for order, words in (("off", "in order"), ("records", "shuffled")):
        options: RoadOptions = replace(COLD, shuffle=order)  # type: ignore[arg-type]
        bench.add(heat, f"ours {words}", "iobench", path, replace(options, engine="direct"))
        bench.add(heat, f"preadv {words}", "preadv", path, options)
    heat.claims = [
        Claim("cold: ours / preadv with O_DIRECT", "ours in order", ["preadv in order"], 0.97),
        Claim("cold: ours shuffled / the same reads", "ours shuffled", ["preadv shuffled"], 0.95),
    ]
    return heat


def records_heat(bench: Bench) -> Heat:
    """Warm, a full shuffle against the order on disk, and against a bare loop of the same reads.

    In order engine mmap copies nothing, while a shuffled batch has to be brought together: it is copied once more.
    """
    heat, path = Heat(), bench.raw()
    bench.add(heat, "preadv records", "preadv", path, replace(WARM, shuffle="records"))
    for engine in ENGINES:
        for order in ("off", "records"):
            options: Any = replace(WARM, engine=engine, shuffle=order)
            bench.add(heat, f"{engine} {order}", "iobench", path, options)
        heat.claims.append(
            Claim(f"records: shuffled / in order, {engine}", f"{engine} records", [f"{engine} off"], 0.8)
        )
        heat.claims.append(
            Claim(f"records: {engine}, shuffled / the same reads", f"{engine} records", ["preadv records"], None)
        )
    return heat


def tensors_heat(bench: Bench) -> Heat:
    """The same images as tensor shards."""
    heat = Heat()
    if "tensors" not in get_args(Generate.model_fields["format"].annotation):
        heat.left_out.append("tensors: iobench generate does not write them yet")
        return heat
    for kind in ("tfrecord", "tensors"):
        bench.add(heat, kind, "iobench", bench.raw(kind=kind), replace(WARM, engine=BEST_ENGINE))
    heat.claims = [Claim("tensor shards / TFRecord", "tensors", ["tfrecord"], 1.0)]
    return heat


def flat_heat(bench: Bench) -> Heat:
    """Images in 1, 4 and 16 shards, and ten times as many.

    Batches divide shards: nowhere does one lie over the end of a shard.
    """
    return _flat(bench, size=SIZE, num_images=bench.num_images // 2, asked=1.05)


def small_heat(bench: Bench) -> Heat:
    """The same with small images, which cost more of the loader's own work; nothing is asked of these."""
    return _flat(bench, size=64, num_images=2 * bench.num_images, asked=None)


def _flat(bench: Bench, *, size: int, num_images: int, asked: float | None) -> Heat:
    heat = Heat()
    for engine in ENGINES:
        options: Any = replace(WARM, engine=engine, batch_size=64)
        for shards in (1, 4, 16):
            path = bench.raw(num_images=num_images, size=size, shards=shards)
            bench.add(heat, f"{engine} {shards} shard{'s' * (shards > 1)}", "iobench", path, options)
        path = bench.raw(num_images=10 * num_images, size=size)
        bench.add(heat, f"{engine} 10 x the records", "iobench", path, options)
        base, pixels = f"{engine} 1 shard", f"{size} pixels"
        for label in [label for label in heat.contestants if label.startswith(engine) and label != base]:
            name = f"flat, {pixels}: CPU of {label} / 1 shard"
            heat.claims.append(Claim(name, label, [base], asked, "at most", "cpu_seconds_per_gb"))
            heat.claims.append(Claim(f"flat, {pixels}: {label} / 1 shard", label, [base], None))
    return heat


HEATS: dict[str, Callable[[Bench], Heat]] = {
    "touch": touch_heat,
    "copy": copy_heat,
    "varied": varied_heat,
    "cold": cold_heat,
    "records": records_heat,
    "tensors": tensors_heat,
    "flat": flat_heat,
    "small": small_heat,
}
BLOCKS = {"touch": 24, "cold": 20, "flat": 20}  # where ten leave it open: bare loops and small differences need more


def _copied(bench: Bench, path: Path) -> Heat:
    heat = Heat()
    for engine in ENGINES:
        options: Any = replace(WARM, engine=engine)
        bench.add(heat, f"ours {engine}", "iobench", path, options)
    bench.add(heat, "preadv fresh", "preadv", path, replace(WARM, variant="fresh"))
    bench.add(heat, "preadv", "preadv", path, WARM)
    bench.add(heat, "preadv 1 reader", "preadv", path, replace(WARM, threads=1))
    bench.add_best(heat, "dali", path, WARM)
    bench.add_best(heat, "torch", path, WARM)
    return heat


def _canonical(pixels: bytes, label: int, number: int) -> bytes:
    features: dict[str, bytes | int] = {
        "image/height": SIZE,
        "image/width": SIZE,
        "image/channels": 3,
        "image/format": b"raw",
        "image/class/label": label,
        "image/filename": f"image-{number:06d}.raw".encode(),
        "image/encoded": pixels,
    }
    return frame(encode_example(features, padded_varints=False))


def settle(claim: Claim, heat: Heat) -> Metric | None:
    """The claim's ratio, against the best of `theirs`; None where one side was left out."""
    there = [heat.contestants[label] for label in claim.theirs if label in heat.contestants]
    if claim.ours not in heat.contestants or not there:
        return None
    ratios = [ratio(heat.contestants[claim.ours], theirs, claim.metric) for theirs in there]
    worst: Callable[..., Metric] = min if claim.rule == "at least" else max
    return worst(ratios, key=lambda metric: metric.value or 0.0)


def met(claim: Claim, metric: Metric) -> str:
    """Whether the ratio is as asked; open where its interval holds both."""
    low, high = metric.ci95 or (metric.value, metric.value)
    if claim.asked is None:
        return ""
    if claim.rule == "at least":
        return "yes" if low >= claim.asked else "no" if high < claim.asked else "open"
    return "yes" if high <= claim.asked else "no" if low > claim.asked else "open"


def run_heat(name: str, bench: Bench, blocks: int) -> tuple[Heat, list[Point], list[str]]:
    """Measure one heat; its points and what must be said of them."""
    heat = HEATS[name](bench)
    if not heat.contestants:
        return heat, [], []
    contestants = list(heat.contestants.values())
    with Screen() as screen:
        evidence = interleave(
            contestants,
            blocks=blocks,
            on_block=lambda done, total, road, rate: screen.show(name, done / total, f"{road}: {rate:.0f} images/s"),
        )
    points = []
    for (label, contestant), seen in zip(heat.contestants.items(), evidence, strict=True):
        point = point_of(contestant, evidence=seen)
        points.append(point.model_copy(update={"params": {**point.params, "heat": name, "label": label}}))
    told = [text for seen in evidence for text in doubts(seen)]
    told += [f"{name}: {seen.engine}: not valid: {reason}" for seen in evidence if (reason := seen.invalid_reason())]
    show(name, points)
    return heat, points, told


def show(name: str, points: Sequence[Point]) -> None:
    """A heat's rates."""
    names = ("images_per_s", "read_gbps", "cpu_seconds_per_gb", "peak_rss_bytes")
    rows = []
    for point in points:
        images, gbps, cpu, peak = (point.metrics[metric] for metric in names)
        rows.append(
            (
                str(point.params["label"]),
                f"{point.params['road']} {point.params['engine']}, {point.params['threads']}",
                figure(images, digits=0),
                figure(gbps),
                figure(cpu),
                f"{(peak.value or 0.0) / 1e6:.0f}",
            )
        )
    table((name, "road, threads", "images/s", "GB/s", "CPU s/GB", "peak MB"), rows)


def spread(metric: Metric | None) -> str:
    """`1.24 (1.21 to 1.27)`, or a dash."""
    if metric is None or metric.ci95 is None:
        return "-"
    return f"{metric.value:.2f} ({metric.ci95[0]:.2f} to {metric.ci95[1]:.2f})"


def parse_arguments() -> argparse.Namespace:
    """What is to be measured, and where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(HEATS), help=f"of {', '.join(HEATS)}")
    parser.add_argument("--seconds", type=float, default=0.5, help="of one time block")
    parser.add_argument("--blocks", type=int, help="time blocks of each road  [10; more where it takes more]")
    parser.add_argument("--images", type=int, default=4096, help="300 x 300 images of a data set")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--keep", action="store_true", help="write the record to results/reference/")
    given = parser.parse_args()
    given.heats = given.only.split(",")
    if unknown := set(given.heats) - HEATS.keys():
        parser.error(f"{', '.join(sorted(unknown))}: no heats; there are {', '.join(HEATS)}")
    return given


def measure(given: argparse.Namespace) -> RunRecord:
    """Run the heats and print the claims."""
    started, points, told, rows = utc_now(), [], [], []
    metrics: dict[str, Metric] = {}
    blocks = {name: given.blocks or BLOCKS.get(name, 10) for name in given.heats}
    asked: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="iobench-bench-", dir=given.folder) as folder:
        bench = Bench(Path(folder), num_images=given.images, seconds=given.seconds)
        for name in given.heats:
            heat, found, more = run_heat(name, bench, blocks[name])
            points += found
            told += [*heat.left_out, *more]
            for claim in heat.claims:
                metric = settle(claim, heat)
                verdict = "left out" if metric is None else met(claim, metric)
                if metric is not None:
                    metrics[claim.name] = metric
                asked[claim.name] = {claim.rule: claim.asked, "met": verdict}
                wanted = "" if claim.asked is None else f"{claim.rule} {claim.asked:g}"
                rows.append((claim.name, wanted, spread(metric), verdict))
        environment = collect(Path(folder))
    table(("ratio", "asked for", "measured", "met"), rows, title="What was asked, and what was measured")
    for text in dict.fromkeys(told):
        say(f"note: {text}")
    return record_of(
        "load",
        started=started,
        words=("--only", given.only),
        workload={
            "image": [SIZE, SIZE, 3],
            "num_images": given.images,
            "seconds": given.seconds,
            "blocks": blocks,
            "heats": given.heats,
            "asked": asked,
        },
        environment=environment,
        metrics=metrics,
        points=points,
        warnings=told,
    )


def main() -> None:
    """Measure, and keep the record where asked to."""
    given = parse_arguments()
    record = measure(given)
    if given.keep:
        keep(record, "loaders")


if __name__ == "__main__":
    run(main)
