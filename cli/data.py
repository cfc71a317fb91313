"""Commands about data and the machine: doctor, generate, index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..terminal import Screen, say, table
from .journal import print_json
from .options import DataPath, Json, app


@app.command()
def doctor(
    path: Annotated[Path, typer.Argument(help="file or folder to look at")] = Path(), json: Json = False
) -> None:
    """What can be used here, why the rest cannot, and what to do about it."""
    from ..storage_bench.doctor import examine

    findings = examine(path)
    if json:
        rows = [
            {"name": row.name, "available": row.available, "seen": row.seen, "advice": row.advice} for row in findings
        ]
        print_json({"kind": "doctor", "path": str(path), "findings": rows})
    words = {True: "yes", False: "no", None: "?"}
    table(
        ("what", "here", "seen", "way out"),
        [(row.name, words[row.available], row.seen, row.advice) for row in findings],
    )


@app.command()
def generate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="an empty or new folder")],
    images: Annotated[int, typer.Option(help="how many images")] = 6144,
    size: Annotated[int, typer.Option(help="pixels of each side")] = 300,
    images_per_shard: Annotated[int, typer.Option(help="images in a file")] = 256,
    seed: Annotated[int, typer.Option(help="what the pixels are drawn from")] = 0,
    format: Annotated[str, typer.Option(help="tfrecord or tensors")] = "tfrecord",  # noqa: A002  # the option's name
    force: Annotated[bool, typer.Option("--force", help="replace another data set in DIR")] = False,
    json: Json = False,
) -> None:
    """Write image shards with known, incompressible content."""
    from pydantic import ValidationError

    from ..storage_bench.generate import Generate
    from ..storage_bench.generate import generate as write

    try:
        wanted = Generate.model_validate(
            {"num_images": images, "size": size, "images_per_shard": images_per_shard, "seed": seed, "format": format}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise typer.BadParameter(f"{first['loc'][0]} is {first['input']!r}: {first['msg']}") from None
    with Screen() as screen:
        dataset = write(
            folder,
            wanted,
            progress=lambda done, total: screen.show(
                "generate", done / total, f"{done / 1e9:.2f} of {total / 1e9:.2f} GB"
            ),
            force=force,
        )
    if json:
        print_json(dataset.model_dump(mode="json"))
    total = sum(shard.bytes for shard in dataset.shards)
    say(f"{folder}: {dataset.num_images} images in {len(dataset.shards)} shards, {total / 1e9:.2f} GB")


@app.command()
def index(
    path: DataPath,
    verify: Annotated[bool, typer.Option("--verify", help="check every record's crc, or every digest")] = False,
    json: Json = False,
) -> None:
    """Index the shards, prove their layout, and with --verify check every record."""
    from ..loaders.index import verify_shards
    from ..loaders.shards import open_index

    with Screen() as screen:
        paths, found = open_index(
            path, progress=lambda done, total: screen.show("index", done / total, f"{done} shards")
        )
        verified = None
        if verify:
            verified = verify_shards(
                paths, found, progress=lambda done, total: screen.show("verify", done / total, f"{done / 1e9:.2f} GB")
            )
    layout = found.layout
    if json:
        print_json(
            {
                "num_records": found.num_records,
                "num_shards": len(paths),
                "stride_bytes": layout.stride_bytes,
                "payload_offset": layout.payload_offset,
                "record_bytes": found.record_bytes,
                "layout_reason": found.layout_reason,
                "shape": layout.shape,
                "dtype": layout.dtype,
                "status": found.status,
                "location": None if found.location is None else str(found.location),
                "verified_bytes": verified,
            }
        )
    shape = " x ".join(map(str, layout.shape))
    say(f"{path}: {found.num_records} records of {shape} {layout.dtype} in {len(paths)} shards; index {found.status}")
    say(found.layout_reason)
    if verified is not None:
        proof = "digest" if paths[0].suffix == ".tensors" else "crc"
        say(f"every {proof} is right ({verified / 1e9:.2f} GB read)")
