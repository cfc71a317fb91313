"""How fast JPEG TFRecords become normalised batches, beside DALI's CPU pipeline and torch's loader with Pillow.

    python tests/bench/jpeg.py                       both transforms: about six minutes, 60 MB in a temporary folder
    python tests/bench/jpeg.py --only train          one of them
    python tests/bench/jpeg.py --keep                and put the record into results/reference/

What is run is `iobench load --peers torch,dali`: files are warm, batches float32, each road has a process of its own
and the same number of threads, and torch's loader the number of worker processes that a pilot finds best.  The loop
touches each page of a batch.  Ratios are of blocks of one round, and hold where their whole interval does.

Images have about 500 x 375 pixels at quality 90 and take 60 KB: one decodes in 0.6 ms.  With ImageNet's 110 KB
(`--mean-bytes 110000`) more of the time goes into bits, on every road.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from parts.record import keep, record_of, run

from iobench.loaders.page_cache import warm
from iobench.results.environment import collect
from iobench.results.record import Point, RunRecord, utc_now
from iobench.storage_bench.generate import GenerateJpeg, generate
from iobench.storage_bench.peers import PeersConfig, PeersResult, compare_peers
from iobench.terminal import Screen, say, table

ASKED = {("train", "dali"): 1.5, ("train", "torch"): 3.0, ("validation", "dali"): 2.0}


def compare(folder: Path, kind: str, given: argparse.Namespace, screen: Screen) -> PeersResult:
    """Our road and both others with one transform."""
    config = PeersConfig(
        peers=("torch", "dali"),
        consumer="touch",
        page_cache="warm",
        transform=kind,  # type: ignore[arg-type]  # pydantic says what it may be
        batch_size=given.batch_size,
        num_workers=given.threads,
        seconds=given.seconds,
        blocks=given.blocks,
    )
    return compare_peers(
        folder,
        config,
        on_block=lambda done, total, road, rate: screen.show(kind, done / total, f"{road}: {rate:.0f} images/s"),
    )


def held_against(point: Point) -> dict[str, Any] | None:
    """What was asked of our ratio to a road, what it is, and whether that is met."""
    asked = ASKED.get((str(point.params["transform"]), str(point.params["road"])))
    ratio = point.metrics.get("images_per_s_ratio")
    if asked is None or ratio is None or ratio.ci95 is None:
        return None
    low, high = ratio.ci95
    met = "yes" if low >= asked else "no" if high < asked else "not distinguishable"
    return {"at least": asked, "measured": ratio.value, "ci95": list(ratio.ci95), "met": met}


def row(point: Point) -> tuple[str, ...]:
    """A point as the table shows it."""
    rate, ratio, held = point.metrics["images_per_s"], point.metrics.get("images_per_s_ratio"), held_against(point)
    told = (
        "" if ratio is None or ratio.ci95 is None else f"{ratio.value:.2f} ({ratio.ci95[0]:.2f} to {ratio.ci95[1]:.2f})"
    )
    names = (str(point.params.get(name, "")) for name in ("transform", "road", "threads"))
    asked = ("", "") if held is None else (f"{held['at least']:g}", held["met"])
    return (*names, "" if rate.value is None else f"{rate.value:.0f}", told, *asked)


def measure(given: argparse.Namespace) -> RunRecord:
    """Hold the roads side by side, and print the ratios."""
    started, results = utc_now(), {}
    with tempfile.TemporaryDirectory(prefix="iobench-bench-") as name, Screen() as screen:
        folder = Path(name) / "data"
        generate(
            folder, GenerateJpeg(num_images=given.images, images_per_shard=128, mean_bytes=given.mean_bytes, spread=0.1)
        )
        warm(sorted(folder.glob("*.tfrecord")))
        for kind in given.only.split(","):
            results[kind] = compare(folder, kind, given, screen)
        environment = collect(folder)
    points = [point for result in results.values() for point in result.points]
    table(
        ("transform", "road", "threads", "images/s", "ours to it", "asked for", "met"), [row(point) for point in points]
    )
    for kind, result in results.items():
        say(f"{kind}: {result.sentences[-1]}")
    asked = {f"{point.params['transform']}, {point.params['road']}": held_against(point) for point in points}
    return record_of(
        "load",
        started=started,
        words=("--only", given.only),
        workload={
            **{name: value for name, value in vars(given).items() if name != "keep"},
            "asked": {name: held for name, held in asked.items() if held is not None},
            "roads": {kind: list(result.roads) for kind, result in results.items()},
            "images": {kind: result.images for kind, result in results.items()},
        },
        environment=environment,
        metrics={},
        points=points,
        warnings=[text for result in results.values() for text in (*result.warnings, *result.invalid)],
    )


def parse_arguments() -> argparse.Namespace:
    """What is to be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="train,validation")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one time block")
    parser.add_argument("--blocks", type=int, default=12, help="of each road")
    parser.add_argument("--mean-bytes", type=int, default=60_000, help="of a file; ImageNet's mean is 110000")
    parser.add_argument("--keep", action="store_true", help="write the record to results/reference/")
    given = parser.parse_args()
    if unknown := set(given.only.split(",")) - {"train", "validation"}:
        parser.error(f"{', '.join(sorted(unknown))}: no transform; there are train and validation")
    return given


def main() -> None:
    """Measure, and keep the record where asked to."""
    given = parse_arguments()
    record = measure(given)
    if given.keep:
        keep(record, "jpeg")


if __name__ == "__main__":
    run(main)
