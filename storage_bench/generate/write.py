"""Generate a data set: find it whole, or write it; what both kinds of samples have in common."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from .dataset import (
    DESCRIPTION,
    GENERATOR,
    NUM_CLASSES,
    Dataset,
    Generate,
    GenerateError,
    GenerateJpeg,
    GenerateSamples,
    GenerateUsageError,
    ShardFile,
    read_dataset,
)
from .folder import Progress, check_space, prepared, put_in_place, replaceable
from .image_shards import record_bytes, write_image_shards
from .jpeg_shards import expected_bytes, write_jpeg_shards
from .sample_shards import data_bytes, write_sample_shards
from .samples import least_bytes

Config = Generate | GenerateSamples | GenerateJpeg

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def find_dataset(folder: Path, config: Config) -> Dataset | None:
    """The data set of `config` if the folder holds it whole, None if the folder holds no dataset.json.

    Another data set there is a GenerateUsageError, a shard that is missing or of another size a GenerateError.
    Digests are not read again: `index --verify` does that.
    """
    if not (folder / DESCRIPTION).exists():
        return None
    found = read_dataset(folder)
    # Describing draws the size of every sample: not of a number of them that is not there anyway.
    planned = describe(config, ()) if found.num_images == config.num_images else config
    for name, value in planned.model_dump(exclude={"shards", "size"}).items():
        if getattr(found, name) != value:
            raise GenerateUsageError(
                f"{folder}: holds a data set with {name} = {getattr(found, name)}, asked for is {value}; "
                f"give another folder, ask for what is there, or --force to replace it"
            )
    for shard in found.shards:
        path = folder / shard.name
        size_bytes = path.stat().st_size if path.exists() else None
        if size_bytes != shard.bytes:
            state = "is missing" if size_bytes is None else f"has {size_bytes} bytes instead of {shard.bytes}"
            raise GenerateError(f"{path}: this shard {state}; generate with --force to write the data set again")
    return found


def describe(config: Config, shards: tuple[ShardFile, ...]) -> Dataset:
    """What dataset.json will say of it."""
    described = Dataset(
        format=config.format,
        shape=config.shape if isinstance(config, Generate) else None,
        dtype="uint8",
        num_images=config.num_images,
        seed=config.seed,
        images_per_shard=config.images_per_shard,
        num_classes=NUM_CLASSES,
        record_bytes=total_bytes(config) // config.num_images,
        generator=GENERATOR,
        shards=shards,
    )
    if isinstance(config, GenerateJpeg):
        return described.model_copy(update={"mean_bytes": config.mean_bytes, "spread": config.spread})
    if not isinstance(config, GenerateSamples):
        return described
    of_samples = {name: getattr(config, name) for name in ("sample_bytes", "sample_bytes_sd", "workload")}
    return described.model_copy(update=of_samples)


def total_bytes(config: Config) -> int:
    """What the shards take on the disk; of JPEG images about that."""
    if isinstance(config, GenerateJpeg):
        return expected_bytes(config)
    return config.num_images * record_bytes(config) if isinstance(config, Generate) else data_bytes(config)


def generate(
    folder: Path,
    config: Config,
    *,
    progress: Progress | None = None,
    num_threads: int | None = None,
    force: bool = False,
) -> Dataset:
    """Write the data set into an empty or new folder, or find it there already, and return its description.

    `progress(done_bytes, total_bytes)` is called as each chunk goes to the disk.  `force` replaces an older data set,
    which stays until the new one is whole.  Whatever ends the call early, Ctrl-C included, removes all that it made.
    GenerateUsageError: the folder holds something else.  GenerateError: no space, no permission, a failing disk.
    """
    try:
        if not force and (found := find_dataset(folder, config)):
            return found
        with prepared(folder):
            replaced = replaceable(folder, force=force)
            if isinstance(config, GenerateSamples):
                check_space(folder, num_images=config.num_images, total_bytes=least_bytes(config))
            check_space(folder, num_images=config.num_images, total_bytes=total_bytes(config))
            return _write(folder, config, replaced, progress, num_threads or _spare_cpus())
    except OSError as error:
        if error.errno in _NO_SPACE:
            rule = f"no space left ({error.strerror}); free some or ask for fewer images"
        else:
            rule = f"cannot write {error.filename or 'here'} ({error.strerror}); give a folder that can be written"
        raise GenerateError(f"{folder}: {rule}; what this run wrote has been removed") from error


def _write(folder: Path, config: Config, replaced: list[Path], progress: Progress | None, num_threads: int) -> Dataset:
    with put_in_place(folder, replaced) as (made, publish):
        if isinstance(config, Generate):
            shards = tuple(write_image_shards(folder, config, made, progress, num_threads))
        elif isinstance(config, GenerateJpeg):
            shards = tuple(write_jpeg_shards(folder, config, made, progress, num_threads))
        else:
            shards = tuple(write_sample_shards(folder, config, made, progress, num_threads))
        dataset = describe(config, shards)
        publish(dataset)
    return dataset


def _spare_cpus() -> int:
    return min(8, max(1, len(os.sched_getaffinity(0)) - 1))  # one is left to hash and write
