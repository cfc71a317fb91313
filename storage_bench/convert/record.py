"""`iobench convert` in the record's form: one point, what became of what, and the images left out."""

from __future__ import annotations

from typing import Any

from ...results.mounts import mount_of
from ...results.privacy import public_path, public_text
from ...results.quantities import amount, counted
from ...results.record import Metric, Point, not_measured
from .outcome import Converted

MAX_NAMED = 100  # of images that were left out
_NOTHING = "every part was there already, read back and held against its digest"


def convert_point(found: Converted) -> Point:
    """What this run made, how fast; of one run there is no interval."""
    config, made = found.plan.config, found.made_rows
    num_images, bytes_out = sum(row.num_images for row in made), sum(row.bytes for row in made)
    if made:
        metrics = {
            "images_per_s": Metric(value=num_images / found.seconds, unit="images/s", n=1),
            "convert_time_s": Metric(value=found.seconds, unit="s", n=1),
            "write_gbps": Metric(value=bytes_out / found.seconds / 1e9, unit="GB/s", n=1),
            "bytes_in": Metric(value=float(found.bytes_in), unit="bytes", n=1),
            "bytes_out": Metric(value=float(bytes_out), unit="bytes", n=1),
        }
    else:
        units = {"images_per_s": "images/s", "convert_time_s": "s", "write_gbps": "GB/s"}
        units |= {"bytes_in": "bytes", "bytes_out": "bytes"}
        metrics = {name: not_measured(unit, _NOTHING) for name, unit in units.items()}
    return Point(
        params={
            "stage": "convert",
            "target": public_path(found.target),
            "format": config.format,
            "size": config.size,
            "fit": config.fit if config.size is not None else None,
            "quality": config.quality,
            "shuffle": config.shuffle,
            "jobs": found.jobs,
            "images": num_images,
            "skipped": sum(len(row.skipped) for row in made),
        },
        metrics=metrics,
    )


def convert_workload(found: Converted) -> dict[str, Any]:
    """What was asked for, what the target is, and the images that were left out."""
    config = found.plan.config
    return {
        "target": public_path(found.target),
        "file_system": mount_of(found.target).fstype,
        "dataset": {
            "format": config.format,
            "shape": found.plan.shape,
            "num_images": found.num_images,
            "num_parts": sum(row.num_images > 0 for row in found.rows),
            "bytes": found.num_bytes,
        },
        "verified_by": "every part was read back and compared with what was written before it got its name",
        "num_skipped": len(found.skipped),
        "skipped": [public_text(broken.reason) for broken in found.skipped[:MAX_NAMED]],
        "config": config.model_dump(mode="json"),
    }


def convert_warnings(found: Converted) -> list[str]:
    """What a reader of the target has to know: images that were left out, labels that are other ones."""
    told = []
    if skipped := found.skipped:
        told.append(f"{len(skipped)} broken images were left out, the first: {public_text(skipped[0].reason)}")
    labels = list(found.plan.classes)
    if labels and labels != list(range(len(labels))):
        told.append(f"labels {labels[0]} to {labels[-1]} became 0 to {len(labels) - 1}, in their order")
    return told


def convert_sentence(found: Converted) -> str:
    """What there is now, and what this run did about it."""
    parts = counted(sum(row.num_images > 0 for row in found.rows), "shard")
    if found.plan.classes:
        parts = counted(len(found.plan.classes), "folder")
    images = counted(found.num_images, "image")
    whole = "is whole" if found.num_images == 1 else "are whole"
    there = f"{found.target}: {images} in {parts}, {amount(found.num_bytes, 'bytes')}, {whole}"
    if not found.made:
        return f"{there}; all was there already, and was held against its digests."
    made = sum(row.num_images for row in found.made_rows)
    rate = f"{counted(made, 'image')} in {found.seconds:.1f} s, {made / found.seconds:.0f} images/s"
    return f"{there}: {rate}, each read back and compared before its file got its name."
