"""Whether real training learns from the data's pixels: ResNet-18 on two CPU ranks, and a control that cannot.

    python tests/bench/learning.py            about two minutes on two cores, 0.2 GB in a temporary folder
    python tests/bench/learning.py --keep     and put the record into results/reference/

Both runs see the same images in the same order, 64-pixel crops of generated ones.  In the control each batch's labels
are shuffled, so that nothing can be learned but how often a class comes.  The accuracy is that on other images, which
none was trained on; ten classes make 0.1 of guessing.  Ends with 1 where the difference is not clear.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Literal

from parts.record import keep, record_of, run

from iobench.cli.points import show_points
from iobench.results.environment import collect
from iobench.results.record import Metric, Point, RunRecord, utc_now
from iobench.results.stats import summarise
from iobench.storage_bench.generate import Generate, generate
from iobench.terminal import Screen, say
from iobench.training_bench.real.asked import RealRun
from iobench.training_bench.real.plan import RealConfig
from iobench.training_bench.real.run import run_real

NUM_IMAGES, NUM_HELD_OUT, SIZE, CROP = 4096, 512, 96, 64
RANKS, BATCH, STEPS = 2, 16, 60
LEARNED, GUESSED = 0.9, 0.2


def train(folder: Path, labels: Literal["given", "shuffled"], screen: Screen) -> Point:
    """One training and its validation."""
    config = RealConfig(labels=labels, num_classes=10, crop=CROP, learning_rate=0.4)
    run = RealRun(
        folder / "train",
        config,
        "resnet18",
        "cpu",
        num_ranks=RANKS,
        steps=STEPS,
        batch_size=BATCH,
        validate_on=folder / "held-out",
    )
    outcome = run_real(run, show=screen.show)
    say(f"labels {labels}: {outcome.sentence}")
    ranks = tuple(rank.model_copy(update={"host": "localhost"}) for rank in outcome.best.ranks)
    return outcome.best.model_copy(update={"ranks": ranks})


def measure() -> RunRecord:
    """Both trainings on data of this run, and their record."""
    started = utc_now()
    with tempfile.TemporaryDirectory(prefix="iobench-learning-") as name, Screen() as screen:
        folder = Path(name)
        for part, images, seed in (("train", NUM_IMAGES, 0), ("held-out", NUM_HELD_OUT, 1)):
            generate(folder / part, Generate(num_images=images, size=SIZE, images_per_shard=512, seed=seed))
        points = tuple(train(folder, labels, screen) for labels in ("given", "shuffled"))
        environment = collect(folder)
    show_points(points)
    return record_of(
        "train",
        started=started,
        workload={"images": NUM_IMAGES, "held_out": NUM_HELD_OUT, "size": SIZE, "crop": CROP, "steps": STEPS},
        environment=environment,
        metrics={f"accuracy_{point.params['labels']}": accuracy(point) for point in points},
        points=points,
    )


def accuracy(point: Point) -> Metric:
    """The share of held-out images that are right."""
    value = point.metrics["validation_accuracy"].value
    return summarise([] if value is None else [value], unit="fraction", reason="the network came to no number")


def main() -> int:
    """Train, and keep the record where asked to."""
    parser = argparse.ArgumentParser(description="whether real training learns from the data's pixels")
    parser.add_argument("--keep", action="store_true", help="put the record into results/reference/")
    to_be_kept = parser.parse_args().keep
    record = measure()
    given, shuffled = (record.metrics[f"accuracy_{labels}"].value or 0.0 for labels in ("given", "shuffled"))
    say(f"right of {NUM_HELD_OUT} held-out images: {given:.1%} with labels, {shuffled:.1%} with shuffled ones")
    if to_be_kept:
        keep(record, "learning")
    return 0 if given > LEARNED and shuffled < GUESSED else 1


if __name__ == "__main__":
    run(main)
