"""The command that makes one format of another: convert."""

from __future__ import annotations

import re
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from ..terminal import Screen
from .journal import Journal
from .options import ConfigFile, Dtype, ImageField, Json, LabelField, Out, Sets, Shape, app, data_source

if TYPE_CHECKING:
    from ..storage_bench.sample_format import SampleOptions


def _no_server(value: Path) -> Path:
    """Refuses an address; as a Path it has lost a slash."""
    if re.match(r"(s3|https?):/", str(value), re.IGNORECASE):
        raise typer.BadParameter("sets are converted into a folder; copy that to a server afterwards")
    return value


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="folder of shards or images, glob, file, or address")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="an empty or new folder", callback=_no_server)],
    format: Annotated[  # noqa: A002  # the option's name
        str | None, typer.Option(help="tfrecord, tfrecord-jpeg, tensors, webdataset or folder")
    ] = None,
    size: Annotated[int | None, typer.Option(help="pixels of the images' sides, see --fit  [as they are]")] = None,
    fit: Annotated[
        str | None,
        typer.Option(help="crop: shorter side, then the middle; stretch: both sides; shorter: nothing cut  [crop]"),
    ] = None,
    quality: Annotated[int | None, typer.Option(help="of JPEGs, 1 to 100; encodes all anew  [90 where new]")] = None,
    images_per_shard: Annotated[int | None, typer.Option(help="images in a file  [about 128 MiB]")] = None,
    shuffle: Annotated[bool | None, typer.Option("--shuffle", help="in another order, by --seed")] = None,
    seed: Annotated[int | None, typer.Option(help="what the order is drawn from  [0]")] = None,
    jobs: Annotated[int | None, typer.Option(help="shards made at once  [processors]")] = None,
    on_error: Annotated[str | None, typer.Option(help="of a broken image: raise, or skip and list it  [raise]")] = None,
    check: Annotated[
        bool | None, typer.Option(help="decode images whose bytes are kept, to see that they are whole")
    ] = None,
    relabel: Annotated[bool | None, typer.Option("--relabel", help="folder: labels may become 0, 1, 2 ...")] = None,
    shape: Shape = None,
    dtype: Dtype = None,
    image_field: ImageField = None,
    label_field: LabelField = None,
    config: ConfigFile = None,
    set_: Sets = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Make a set of images in another format: resized where asked, verified, and gone on with after an interruption.

    Encoded images keep their bytes unless --size or --quality says otherwise.  Labels stay what they are.
    """
    from ..configs import load as load_config
    from ..storage_bench.convert import Convert
    from ..storage_bench.convert import convert as make
    from ..storage_bench.convert.record import convert_point, convert_sentence, convert_warnings, convert_workload

    given = {
        "format": format,
        "size": size,
        "fit": fit,
        "quality": quality,
        "images_per_shard": images_per_shard,
        "shuffle": shuffle,
        "seed": seed,
        "jobs": jobs,
        "on_error": on_error,
        "check": check,
        "relabel": relabel,
    }
    settings = load_config(Convert, file=config, sets=set_ or (), flags=given)
    samples = _samples(shape, dtype, image_field, label_field)
    place = data_source(source)
    journal = Journal("convert", place, out, json=json, also=[target])
    pace = _Pace()
    with Screen() as screen:
        found = make(
            place,
            target,
            settings,
            options=samples,
            progress=lambda phase, done, total: screen.show(*pace.tell(phase, done, total)),
        )
    point = convert_point(found)
    journal.finish(
        workload=convert_workload(found),
        points=[point],
        metrics=point.metrics,
        best=point,
        warnings=convert_warnings(found),
        sentence=convert_sentence(found),
    )


def _samples(shape: str | None, dtype: str | None, image_field: str | None, label_field: str | None) -> SampleOptions:
    from ..configs import load as load_config
    from ..storage_bench.sample_format import SampleFormat

    flags = {"shape": shape, "dtype": dtype, "image_field": image_field, "label_field": label_field}
    return load_config(SampleFormat, flags=flags).sample_options()


class _Pace:
    """Progress in words: how fast each phase has been, and what is left of it at that pace."""

    def __init__(self) -> None:
        self._begun: dict[str, float] = {}

    def tell(self, phase: str, done: int, total: int) -> tuple[str, float, str]:
        """(name of the part, share done, rate and time left)."""
        now = perf_counter()
        passed = now - self._begun.setdefault(phase, now)
        rate = done / passed if passed else 0.0
        left = f", {rate:.0f} images/s, {(total - done) / rate:.0f} s left" if rate else ""
        return phase, done / total, f"{done} of {total} images{left}"
