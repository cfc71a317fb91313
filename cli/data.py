"""Commands about data and the machine: doctor, generate, index."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from shlex import quote
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

import typer

from ..results.quantities import amount, counted
from ..terminal import Screen, say, table, terminal_columns
from .journal import print_json
from .options import DataSource, Dtype, ImageField, Json, LabelField, Shape, app, data_source

if TYPE_CHECKING:
    from pydantic import ValidationError

    from ..storage_bench.generate import Generate, GenerateJpeg, GenerateSamples

SEEN_WORDS = {True: "yes", False: "no", None: "?"}
NAME_WIDTH = 20
NOTES_INDENT = NAME_WIDTH + 10  # columns of a table before what was seen


@app.command()
def doctor(
    path: Annotated[str, typer.Argument(help="file or folder to look at")] = ".",  # typer asks a Path's file system
    json: Json = False,
) -> None:
    """What can be used here, why the rest cannot, and what to do about it."""
    from dataclasses import asdict

    from ..loaders.remote import shown_address
    from ..results.privacy import public_path
    from ..storage_bench.doctor import examine

    diagnosis = examine(path)
    if json:
        shown = shown_address(path) if "://" in path else public_path(path)
        findings = [_public(asdict(finding)) for finding in diagnosis.findings]
        routes = [_public(asdict(route)) for route in diagnosis.routes]
        print_json({"kind": "doctor", "path": shown, "findings": findings, "routes": routes})
    for group, found in groupby(diagnosis.findings, key=lambda finding: finding.group):
        _notes(group, [(row.name, row.available, row.seen, row.advice) for row in found])
    _notes("routes", [(row.name, row.available, row.reason, row.advice) for row in diagnosis.routes])


def _public(row: Mapping[str, object]) -> dict[str, object]:
    """What was seen as it may be shown to others: people paste it into tickets."""
    from ..results.privacy import public_text

    return {name: public_text(value) if isinstance(value, str) else value for name, value in row.items()}


def _notes(title: str, rows: list[tuple[str, bool | None, str, str]]) -> None:
    """A table of what was seen, the way out below it, in lines that fit the terminal."""
    width = max(40, (terminal_columns() or 120) - NOTES_INDENT)
    lines: list[tuple[str, str, str]] = []
    for name, available, seen, advice in rows:
        texts = [*wrap(seen, width), *wrap(f"-> {advice}" if advice else "", width, subsequent_indent="   ")]
        lines += [(name, SEEN_WORDS[available], texts[0]), *(("", "", text) for text in texts[1:])]
    table((title.ljust(NAME_WIDTH), "here", "what was seen"), lines)
    say()


@app.command()
def generate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="an empty or new folder")],
    images: Annotated[
        int | None, typer.Option(help="how many images or samples (6144, or all of a workload's)")
    ] = None,
    size: Annotated[int | None, typer.Option(help="pixels of each side (300); JPEGs have ImageNet's sides")] = None,
    images_per_shard: Annotated[int | None, typer.Option(help="images in a file (256, or as a workload has)")] = None,
    seed: Annotated[int, typer.Option(help="what the pixels are drawn from")] = 0,
    format: Annotated[str | None, typer.Option(help="tfrecord, tensors or tfrecord-jpeg")] = None,  # noqa: A002  # the option's name
    workload: Annotated[str | None, typer.Option(help="MLPerf's samples: resnet50, unet3d or cosmoflow")] = None,
    scale: Annotated[float | None, typer.Option(help="share of the workload's samples, 0.001 for a thousandth")] = None,
    record_bytes: Annotated[
        str | None, typer.Option(help="bytes of a sample, as 64K, where not the workload's")
    ] = None,
    mean_bytes: Annotated[str | None, typer.Option(help="bytes of a JPEG file in the mean, as 64K (110000)")] = None,
    spread: Annotated[float | None, typer.Option(help="standard deviation of the logarithm of those (0.45)")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace another data set in DIR")] = False,
    json: Json = False,
) -> None:
    """Write shards with known, incompressible content: images, or the samples of an MLPerf Storage workload."""
    from ..storage_bench.generate import generate as write

    wanted: Generate | GenerateSamples | GenerateJpeg
    if workload is not None:
        others = {"--size": size, "--format": format, "--mean-bytes": mean_bytes, "--spread": spread}
        _refuse_beside("--workload", others)
        wanted = _workload_settings(workload, images, scale, record_bytes, images_per_shard, seed)
    else:
        _refuse_beside(None, {"--scale": scale, "--record-bytes": record_bytes})
        given: dict[str, object] = {
            "num_images": images,
            "size": size,
            "images_per_shard": images_per_shard,
            "format": format,
        }
        given |= {"mean_bytes": _bytes("--mean-bytes", mean_bytes), "spread": spread}
        wanted = _image_settings({name: value for name, value in given.items() if value is not None} | {"seed": seed})
    with Screen() as screen:
        dataset = write(
            folder,
            wanted,
            progress=lambda done, total: screen.show(
                "generate", done / total, f"{amount(done, 'bytes')} of {amount(total, 'bytes')}"
            ),
            force=force,
        )
    if json:
        print_json(dataset.model_dump(mode="json"))
    total = sum(shard.bytes for shard in dataset.shards)
    what = counted(dataset.num_images, "image" if dataset.workload is None else "sample")
    what += "" if dataset.workload is None else f" of {dataset.workload.label}"
    say(f"{folder}: {what} in {counted(len(dataset.shards), 'shard')}, {amount(total, 'bytes')}")
    there = quote(str(folder))
    say(f"next: iobench storage {there}, iobench load {there}, or for a verdict iobench qualify {there}")


def _refuse_beside(option: str | None, others: Mapping[str, object]) -> None:
    for name, value in others.items():
        if value is not None:
            rule = f"has no meaning beside {option}" if option else "needs --workload resnet50, unet3d or cosmoflow"
            raise typer.BadParameter(f"{name} {rule}")


def _image_settings(given: Mapping[str, object]) -> Generate | GenerateJpeg:
    from pydantic import ValidationError

    from ..storage_bench.generate import Generate, GenerateJpeg

    encoded = given.get("format") == "tfrecord-jpeg"
    if encoded and "size" in given:
        raise typer.BadParameter(
            "--size has no meaning beside --format tfrecord-jpeg: its images have ImageNet's sides"
        )
    if not encoded and (name := next((name for name in ("mean_bytes", "spread") if name in given), None)):
        raise typer.BadParameter(
            f"--{name.replace('_', '-')} needs --format tfrecord-jpeg: other images are of one size"
        )
    if (named := given.get("format", "tfrecord")) not in ("tfrecord", "tensors", "tfrecord-jpeg"):
        raise typer.BadParameter(f"--format {named}: choose tfrecord, tensors or tfrecord-jpeg")
    try:
        return (GenerateJpeg if encoded else Generate).model_validate({"num_images": 6144, **given})
    except ValidationError as error:
        raise _first_wrong(error) from None


def _bytes(option: str, text: str | None) -> object:
    from ..storage_bench.workload import parse_size

    try:
        return None if text is None else parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option} {error}") from None


def _workload_settings(
    name: str,
    images: int | None,
    scale: float | None,
    record_bytes: str | None,
    images_per_shard: int | None,
    seed: int,
) -> GenerateSamples:
    from pydantic import ValidationError

    from ..storage_bench.emulate import WORKLOADS

    if name not in WORKLOADS:
        raise typer.BadParameter(f"--workload {name}: choose {', '.join(WORKLOADS)}")
    if scale is not None and (images is not None or not 0 < scale <= 1000):
        rule = "give one of --scale and --images" if images is not None else "must be above 0 and at most 1000"
        raise typer.BadParameter(f"--scale {scale}: {rule}")
    size = _bytes("--record-bytes", record_bytes)
    try:
        return WORKLOADS[name].generate_settings(
            1.0 if scale is None else scale,
            num_images=images,
            record_bytes=size,  # type: ignore[arg-type]  # parse_size of a text is a number
            records_per_file=images_per_shard,
            seed=seed,
        )
    except ValidationError as error:
        raise _first_wrong(error) from None


def _first_wrong(error: ValidationError) -> typer.BadParameter:
    first = error.errors()[0]
    where = f"{first['loc'][0]} is {first['input']!r}: " if first["loc"] else ""
    return typer.BadParameter(f"{where}{first['msg']}")


@app.command()
def index(
    source: DataSource,
    verify: Annotated[bool, typer.Option("--verify", help="check every record's crc, or every digest")] = False,
    shape: Shape = None,
    dtype: Dtype = None,
    image_field: ImageField = None,
    label_field: LabelField = None,
    json: Json = False,
) -> None:
    """Index the shards, prove their layout, and with --verify check every record."""
    from ..configs import load as load_config
    from ..loaders.index import verify_shards
    from ..loaders.opening import open_index
    from ..loaders.remote import shown_address
    from ..storage_bench.sample_format import SampleFormat

    flags = {"shape": shape, "dtype": dtype, "image_field": image_field, "label_field": label_field}
    samples = load_config(SampleFormat, flags=flags).sample_options()
    with Screen() as screen:
        paths, found = open_index(
            data_source(source),
            **samples,
            progress=lambda done, total: screen.show("index", done / total, f"{done} of {total}"),
            anew=True,
        )
        verified = None
        if verify:
            verified = verify_shards(
                paths, found, progress=lambda done, total: screen.show("verify", done / total, amount(done, "bytes"))
            )
    layout = found.layout
    if json:
        print_json(
            {
                "num_records": found.num_records,
                "num_shards": len(found.stamps),
                "classes": found.classes,
                "stride_bytes": layout.stride_bytes,
                "payload_offset": layout.payload_offset,
                "record_bytes": found.record_bytes,
                "layout_reason": found.layout_reason,
                "shape": layout.shape,
                "ragged": layout.ragged,
                "dtype": layout.dtype,
                "status": found.status,
                "location": None if found.location is None else str(found.location),
                "verified_bytes": verified,
            }
        )
    shape = f"{found.extents.said} of" if found.extents is not None else " x ".join(map(str, layout.shape))
    where, kind = shown_address(source), "folder" if found.classes else "shard"
    lie = f"in {counted(len(found.stamps), kind)}"
    say(f"{where}: {counted(found.num_records, 'record')} of {shape} {layout.dtype} {lie}; index {found.status}")
    say(found.layout_reason)
    if verified is not None:
        proof = "digest" if paths[0].suffix == ".tensors" else "crc"
        say(f"every {proof} is right ({amount(verified, 'bytes')} read)")
