"""The shards that are read: raw images and JPEGs, generated where they are not there yet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..storage_bench.generate import DESCRIPTION, Generate, GenerateJpeg, generate
from .part import GpuCheckError

RAW = Generate(num_images=4096, size=224, images_per_shard=256, seed=8)
JPEG = GenerateJpeg(num_images=1024, images_per_shard=128, seed=8)
TWIN_RAW = Generate(num_images=96, size=64, images_per_shard=32, seed=8)
TWIN_JPEG = GenerateJpeg(num_images=16, images_per_shard=8, seed=8)

Show = Callable[[str, float, str], None]


def prepare(folder: Path, *, twin: bool, show: Show) -> tuple[Path, Path]:
    """The folders of the raw images and of the JPEGs in `folder`; each is generated where it is missing or empty.

    What is there already is taken as it is: raw images of one size, and JPEG TFRecords.
    """
    if folder.exists() and not folder.is_dir():
        raise GpuCheckError(f"--data {folder}: is a file; name the folder that holds, or is to hold, raw/ and jpeg/")
    wanted: dict[str, Generate | GenerateJpeg] = {"raw": TWIN_RAW if twin else RAW, "jpeg": TWIN_JPEG if twin else JPEG}
    for name, config in wanted.items():
        _ensure(folder / name, config, show)
    return folder / "raw", folder / "jpeg"


def _ensure(folder: Path, config: Generate | GenerateJpeg, show: Show) -> None:
    if not (folder / DESCRIPTION).exists() and any(folder.glob("[!.]*")):
        return  # somebody's own shards
    generate(
        folder, config, progress=lambda done, total: show(folder.name, done / total, f"{done / 1e9:.2f} GB written")
    )
