"""Whether a network learns as much from our JPEG road as from torch's loader with Pillow.

    python tests/bench/jpeg_accuracy.py            about five minutes on two cores, 0.1 GB in a temporary folder
    python tests/bench/jpeg_accuracy.py --keep     and put the record into results/reference/

A small residual network learns the direction of fine gratings under noise: what a worse resize or crop would blur or
alias away.  For each seed it is trained once on either road, from the same weights, with RandomResizedCrop and flips,
and validated on images that neither saw, through the road that it was trained on.  Ten classes make 0.1 of guessing.
The roads differ where the 95 % interval of the differences, seed by seed, leaves 0 out; the status is then 1.
"""

from __future__ import annotations

import argparse
import io
import itertools
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from parts.record import keep, record_of, run
from PIL import Image
from torch import nn

from iobench.loaders.formats.example import encode_example
from iobench.loaders.formats.tfrecord import frame
from iobench.loaders.roads.baselines import open_road
from iobench.loaders.roads.road import RoadBatch, RoadOptions
from iobench.results.environment import collect
from iobench.results.record import Metric, Point, RunRecord, utc_now
from iobench.results.stats import summarise
from iobench.terminal import Screen, say, table

ROADS = ("iobench", "torch")
CLASSES, SIZE, BATCH, SIDES = 10, 64, 64, (240, 320)
NUM_TRAINING, NUM_HELD_OUT = 1024, 512
LEAST = 0.5  # a network that has learned less tells nothing about roads


def grating(number: int, seed: int) -> tuple[Image.Image, int]:
    """A grating whose direction, from level to upright in ten steps, is its class; with noise and a tint of its own."""
    random = np.random.default_rng((seed, number))
    label = int(random.integers(CLASSES))
    rows, columns = np.mgrid[: SIDES[0], : SIDES[1]].astype(np.float32)
    angle = np.pi / 2 * (label + random.uniform(0.1, 0.9)) / CLASSES * random.choice([-1, 1])  # flips change nothing
    wave = np.sin(2 * np.pi / random.uniform(11, 18) * (np.cos(angle) * rows + np.sin(angle) * columns))
    levels = random.uniform(90, 160, 3) + 30 * wave[..., None] + 45 * random.standard_normal((*SIDES, 3), np.float32)
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8)), label


def write(folder: Path, num_images: int, seed: int) -> list[Path]:
    """A shard of JPEGs."""
    folder.mkdir()
    path = folder / "gratings.tfrecord"
    with path.open("wb") as file:
        for number in range(num_images):
            image, label = grating(number, seed)
            target = io.BytesIO()
            image.save(target, "JPEG", quality=90)
            features: dict[str, bytes | int] = {"image/encoded": target.getvalue(), "image/class/label": label}
            file.write(frame(encode_example(features, padded_varints=False)))
    return [path]


class Residual(nn.Module):
    """Two convolutions beside a shortcut; the first halves the sides."""

    def __init__(self, channels: int, more: int) -> None:
        super().__init__()
        self.way = nn.Sequential(
            nn.Conv2d(channels, more, 3, 2, 1, bias=False),
            nn.BatchNorm2d(more),
            nn.ReLU(),
            nn.Conv2d(more, more, 3, 1, 1, bias=False),
            nn.BatchNorm2d(more),
        )
        self.shortcut = nn.Conv2d(channels, more, 1, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Half the sides, `more` channels."""
        return torch.relu(self.way(images) + self.shortcut(images))


def new_network(seed: int) -> nn.Module:
    """The same weights for the same seed."""
    torch.manual_seed(seed)
    stem = (nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    blocks = (Residual(16, 32), Residual(32, 64), Residual(64, 64))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES))


@contextmanager
def batches_of(road: str, paths: list[Path], options: RoadOptions) -> Iterator[Iterator[RoadBatch]]:
    """The batches of a road, which is closed behind them."""
    opened = open_road(road, paths, options)
    with closing(opened), closing(opened.batches()) as batches:  # type: ignore[type-var]  # it is a generator
        yield batches


def tensors(batch: RoadBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (B, 3, H, W) and labels."""
    images = torch.from_numpy(np.asarray(batch.images))
    return (images if images.shape[1] == 3 else images.permute(0, 3, 1, 2)), torch.from_numpy(batch.labels)


def accuracy(road: str, data: dict[str, list[Path]], seed: int, epochs: int) -> float:
    """Train on a road, and say which share of the held-out images is right."""
    network, options = new_network(seed), RoadOptions(BATCH, 2, transform="train", image_size=SIZE, seed=seed)
    steps = epochs * (NUM_TRAINING // BATCH)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    with batches_of(road, data["train"], replace(options, shuffle="records")) as batches:
        for images, labels in map(tensors, itertools.islice(batches, steps)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.no_grad(), batches_of(road, data["held-out"], replace(options, transform="validation")) as batches:
        few = map(tensors, itertools.islice(batches, NUM_HELD_OUT // BATCH))
        return sum(int((network(images).argmax(1) == labels).sum()) for images, labels in few) / NUM_HELD_OUT


def measure(given: argparse.Namespace) -> RunRecord:
    """All trainings, in turns, and their record."""
    started, found = utc_now(), {road: [] for road in ROADS}  # type: Any, dict[str, list[float]]
    with tempfile.TemporaryDirectory(prefix="iobench-accuracy-") as name, Screen() as screen:
        folder = Path(name)
        data = {
            "train": write(folder / "train", NUM_TRAINING, seed=0),
            "held-out": write(folder / "held-out", NUM_HELD_OUT, seed=1),
        }
        for seed in range(given.seeds):
            for road in ROADS[:: 1 if seed % 2 else -1]:
                found[road].append(accuracy(road, data, seed, given.epochs))
                screen.show("train", (seed + 1) / given.seeds, f"seed {seed}, {road}: {found[road][-1]:.1%}")
        environment = collect(folder)
    ours, theirs = (found[road] for road in ROADS)
    difference = summarise([a - b for a, b in zip(ours, theirs, strict=True)], unit="fraction")
    rows = [(road, *(f"{value:.1%}" for value in found[road])) for road in ROADS]
    table(("road", *(f"seed {seed}" for seed in range(given.seeds))), rows)
    points = [
        Point(
            params={"stage": "train", "road": road}, metrics={"validation_accuracy": summarise(values, unit="fraction")}
        )
        for road, values in found.items()
    ]
    return record_of(
        "train",
        started=started,
        workload={
            **{name: value for name, value in vars(given).items() if name != "keep"},
            "images": NUM_TRAINING,
            "held_out": NUM_HELD_OUT,
            "size": SIZE,
            "batch_size": BATCH,
            "classes": CLASSES,
        },
        environment=environment,
        metrics={"validation_accuracy_difference": difference},
        points=points,
    )


def is_same(difference: Metric) -> bool:
    """Whether the interval of the differences holds 0."""
    return difference.ci95 is not None and difference.ci95[0] <= 0 <= difference.ci95[1]


def main() -> int:
    """Train, and keep the record where asked to."""
    parser = argparse.ArgumentParser(description="whether a network learns as much from our JPEG road as from Pillow's")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--keep", action="store_true", help="put the record into results/reference/")
    given = parser.parse_args()
    record = measure(given)
    difference = record.metrics["validation_accuracy_difference"]
    low, high = difference.ci95 or (float("nan"), float("nan"))
    say(f"ours less torch's: {difference.value:+.1%} ({low:+.1%} to {high:+.1%}), over {difference.n} seeds")
    learned = all((point.metrics["validation_accuracy"].value or 0) > LEAST for point in record.points)
    if not learned:
        say(f"a network was right in less than {LEAST:.0%}: nothing can be said of roads; train for more --epochs")
    if given.keep:
        keep(record, "jpeg-accuracy")
    return 0 if learned and is_same(difference) else 1


if __name__ == "__main__":
    run(main)
