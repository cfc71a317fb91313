"""How fast JPEG TFRecords become normalised batches, beside DALI's CPU pipeline and torch's loader with Pillow.

    python tests/bench/jpeg.py                       both transforms: about five minutes, 60 MB in a temporary folder
    python tests/bench/jpeg.py --only train          one of them
    python tests/bench/jpeg.py --keep                and put the record into results/reference/

Files are warm, batches float32 and channels-last, and all roads have the same number of threads; torch's loader takes
the number of worker processes that a pilot finds best.  Roads take turns, block by block, in one process: each first
uses up what it had ready before its clock starts.  Ratios are of blocks of one round.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.utils.data
from PIL import Image

from iobench.loaders import DataLoader, ShardSet, transforms
from iobench.loaders.augment import CROP_NUMBERS, centre, random_resized_crop, shorter_side
from iobench.loaders.page_cache import warm
from iobench.loaders.roads import MemoryFile
from iobench.loaders.tfrecord import FRAMING_BYTES, walk_frames
from iobench.results.environment import collect
from iobench.results.record import Metric, Point, RunRecord, new_run_id, utc_now, write_whole
from iobench.results.stats import ratio_interval, summarise
from iobench.storage_bench.generate import GenerateJpeg, generate
from iobench.terminal import Screen, say, table

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
SIZE, RESIZE = 224, 256
MEAN, STD = transforms.IMAGENET_MEAN, transforms.IMAGENET_STD
AHEAD = 2  # batches, of each road
Kind = Literal["train", "validation"]
ASKED = {("train", "dali"): 1.5, ("train", "torch"): 3.0, ("validation", "dali"): 2.0, ("validation", "torch"): None}


def endless(loader: Any) -> Iterator[int]:
    """Numbers of images of one batch after the other, epoch after epoch."""
    while True:
        for _, labels in loader:
            yield len(labels)


def ours(folder: Path, kind: Kind, threads: int, batch_size: int) -> Iterator[int]:
    """ShardSet and DataLoader."""
    transform = (
        transforms.ImageNetTrain(SIZE) if kind == "train" else transforms.ImageNetValidation(SIZE, resize=RESIZE)
    )
    shards = ShardSet.open(folder, transform=transform)
    options: dict[str, Any] = {"num_workers": threads, "prefetch_factor": AHEAD, "persistent_workers": True}
    return endless(DataLoader(shards, batch_size=batch_size, shuffle=True, drop_last=True, **options))


class PillowSet(torch.utils.data.Dataset[Any]):
    """What torch's users write: read the record, decode and resize with Pillow, to a float tensor, normalise."""

    def __init__(self, folder: Path, kind: Kind) -> None:
        index = (shards := ShardSet.open(folder)).index
        assert index.extents is not None
        self.paths = shards.files
        self.shards = np.repeat(np.arange(len(self.paths)), index.shard_sizes)
        self.offsets, self.lengths, self.labels = index.extents.offsets, index.extents.lengths, index.labels
        self.kind = kind
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        with self.paths[self.shards[number]].open("rb") as file:
            data = os.pread(file.fileno(), int(self.lengths[number]), int(self.offsets[number]))
        with Image.open(io.BytesIO(data)) as opened:
            image = opened.convert("RGB")
        if self.kind == "train":
            numbers = [random.random() for _ in range(CROP_NUMBERS)]
            crop = random_resized_crop(image.height, image.width, numbers, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
            box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
            image = image.crop(box).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
            if random.random() < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        else:
            height, width = shorter_side(image.height, image.width, RESIZE)
            crop = centre(height, width, SIZE)
            box = (crop.left, crop.top, crop.left + SIZE, crop.top + SIZE)
            image = image.resize((width, height), Image.Resampling.BILINEAR).crop(box)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div_(255)
        return tensor.sub_(self.mean).div_(self.std), int(self.labels[number])


def pillow(folder: Path, kind: Kind, workers: int, batch_size: int) -> Iterator[int]:
    """torch's DataLoader with worker processes."""
    options: dict[str, Any] = {"num_workers": workers, "multiprocessing_context": "spawn", "persistent_workers": True}
    data = PillowSet(folder, kind)
    return endless(
        torch.utils.data.DataLoader(data, batch_size, shuffle=True, drop_last=True, prefetch_factor=AHEAD, **options)
    )


def dali(folder: Path, kind: Kind, threads: int, batch_size: int) -> Iterator[int]:
    """DALI's TFRecord reader, decoder and operators on the CPU."""
    nvidia: Any = import_module("nvidia.dali")
    fn, types = import_module("nvidia.dali.fn"), import_module("nvidia.dali.types")
    paths = ShardSet.open(folder).files
    indices = [_index_file(path) for path in paths]
    feature = nvidia.tfrecord
    pipeline = nvidia.Pipeline(batch_size, threads, device_id=None, prefetch_queue_depth=AHEAD)
    with pipeline:
        found = fn.readers.tfrecord(
            path=[str(path) for path in paths],
            index_path=[file.path for file in indices],
            features={
                "image/encoded": feature.FixedLenFeature((), feature.string, ""),
                "image/class/label": feature.FixedLenFeature([1], feature.int64, -1),
            },
            random_shuffle=True,
        )
        encoded, flip = found["image/encoded"], 0
        if kind == "train":
            images = fn.decoders.image_random_crop(
                encoded, random_area=[0.08, 1.0], random_aspect_ratio=[3 / 4, 4 / 3], num_attempts=10
            )
            images = fn.resize(images, size=[SIZE, SIZE], interp_type=types.INTERP_LINEAR, antialias=True)
            flip = fn.random.coin_flip(probability=0.5)
        else:
            images = fn.decoders.image(encoded)
            images = fn.resize(images, resize_shorter=RESIZE, interp_type=types.INTERP_LINEAR, antialias=True)
        images = fn.crop_mirror_normalize(
            images,
            dtype=types.FLOAT,
            output_layout="HWC",
            crop=(SIZE, SIZE),
            mirror=flip,
            mean=[255 * value for value in MEAN],
            std=[255 * value for value in STD],
        )
        pipeline.set_outputs(images, found["image/class/label"])
    pipeline.build()
    while True:
        batch, _ = pipeline.run()
        yield len(batch)


def _index_file(path: Path) -> MemoryFile:
    """What DALI wants to know of a shard: a line `offset size` per framed record."""
    with path.open("rb") as file:
        frames = walk_frames(file.fileno(), path.stat().st_size, path=path)
    lines = zip(frames.offsets.tolist(), (frames.lengths + FRAMING_BYTES).tolist(), strict=True)
    return MemoryFile("".join(f"{offset} {length}\n" for offset, length in lines).encode())


def block(batches: Iterator[int], seconds: float) -> float:
    """Images/s for about `seconds`, once what lay ready is used up."""
    for _ in range(4 * AHEAD + 1):
        next(batches)
    begin = time.perf_counter()
    images = 0
    while time.perf_counter() - begin < seconds:
        images += next(batches)
    return images / (time.perf_counter() - begin)


def roads(folder: Path, kind: Kind, given: argparse.Namespace) -> tuple[dict[str, Iterator[int]], dict[str, int]]:
    """Every road that can be taken here, and its threads or workers."""
    found = {"iobench": ours(folder, kind, given.threads, given.batch_size)}
    used = {"iobench": given.threads, "dali": given.threads}
    with suppress(ModuleNotFoundError):
        import_module("nvidia.dali")
        found["dali"] = dali(folder, kind, given.threads, given.batch_size)
    rates = {}
    for workers in sorted({1, given.threads, 2 * given.threads}):
        batches = pillow(folder, kind, workers, given.batch_size)
        rates[workers] = block(batches, given.seconds)
        batches.close()  # type: ignore[attr-defined]  # it is a generator
    used["torch"] = max(rates, key=lambda workers: rates[workers])
    found["torch"] = pillow(folder, kind, used["torch"], given.batch_size)
    return found, used


def contest(
    folder: Path, kind: Kind, given: argparse.Namespace, show: Callable[[str, float, str], None]
) -> list[Point]:
    """A point for each road; those of others have our ratio to them."""
    found, used = roads(folder, kind, given)
    order, samples = list(found), {name: [] for name in found}  # type: dict[str, list[float]]
    for number in range(given.blocks + 1):
        for name in order:
            rate = block(found[name], given.seconds)
            if number:  # the first round starts threads and processes
                samples[name].append(rate)
            show(kind, (number + 1) / (given.blocks + 1), f"{name}: {rate:.0f} images/s")
        order = order[1:] + order[:1]
    for batches in found.values():
        batches.close()  # type: ignore[attr-defined]
    points = []
    for name, rates in samples.items():
        metrics = {"images_per_s": summarise(rates, unit="images/s")}
        if name != "iobench":
            mean, low, high = ratio_interval(samples["iobench"], rates)
            metrics["iobench_ratio"] = Metric(value=mean, unit="ratio", ci95=(low, high), n=len(rates))
        params: dict[str, str | int] = {"stage": "load", "road": name, "transform": kind, "threads": used[name]}
        points.append(Point(params={**params, "batch_size": given.batch_size}, metrics=metrics))
    return points


def parse_arguments() -> argparse.Namespace:
    """What is to be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="train,validation")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one time block")
    parser.add_argument("--blocks", type=int, default=10, help="of each road")
    parser.add_argument("--keep", action="store_true", help="write the record to results/reference/")
    given = parser.parse_args()
    if unknown := set(given.only.split(",")) - {"train", "validation"}:
        parser.error(f"{', '.join(sorted(unknown))}: no transform; there are train and validation")
    return given


def measure(given: argparse.Namespace) -> RunRecord:
    """Hold the roads side by side, and print the ratios."""
    started, points, rows = utc_now(), [], []  # type: Any, list[Point], list[tuple[str, ...]]
    with tempfile.TemporaryDirectory(prefix="iobench-bench-") as name, Screen() as screen:
        folder = Path(name) / "data"
        generate(folder, GenerateJpeg(num_images=given.images, images_per_shard=128))
        warm(sorted(folder.glob("*.tfrecord")))
        for kind in given.only.split(","):
            points += contest(folder, kind, given, screen.show)
        environment = collect(folder)
    for point in points:
        rate, ratio = point.metrics["images_per_s"], point.metrics.get("iobench_ratio")
        road, kind = str(point.params["road"]), str(point.params["transform"])
        wanted = ASKED.get((kind, road))
        told = (
            ""
            if ratio is None or ratio.ci95 is None
            else f"{ratio.value:.2f} ({ratio.ci95[0]:.2f} to {ratio.ci95[1]:.2f})"
        )
        threads = str(point.params["threads"])
        rows.append((kind, road, threads, f"{rate.value:.0f}", told, "" if wanted is None else f"{wanted:g}"))
    table(("transform", "road", "threads", "images/s", "ours to it", "asked for"), rows)
    return RunRecord(
        run_id=new_run_id("load"),
        kind="load",
        started_at=started,
        finished_at=utc_now(),
        command=("python", "tests/bench/jpeg.py", "--only", given.only),
        workload={name: value for name, value in vars(given).items() if name != "keep"},
        environment={
            **environment,
            "host": None,
            "storage": {**(environment["storage"] or {}), "path": "a temporary folder"},
        },
        metrics={},
        points=tuple(points),
    )


def main() -> None:
    """Measure, and keep the record where asked to."""
    given = parse_arguments()
    record = measure(given)
    if given.keep:
        REFERENCE.mkdir(parents=True, exist_ok=True)
        path = REFERENCE / f"jpeg-{os.cpu_count()}-cores.json"
        write_whole(path, record.model_dump_json(indent=1) + "\n")
        say(f"record: {path.name}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
