"""What `iobench storage` measures in a folder besides reads of data: names (--metadata) and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..terminal import Screen
from .journal import Journal


def measure_names(
    path: Path, flags: dict[str, Any], config: Path | None, sets: Sequence[str], out: Path | None, *, json: bool
) -> None:
    """`iobench storage PATH --metadata`."""
    from ..configs import load as load_config
    from ..storage_bench.metadata import MetadataConfig, measure_metadata

    settings = load_config(MetadataConfig, file=config, sets=sets, flags=flags)
    journal = Journal("storage", path, out, json=json)
    with Screen() as screen:
        result = measure_metadata(path, settings, on_block=lambda share, text: screen.show("metadata", share, text))
    first = result.points[0]
    journal.finish(
        workload=settings.model_dump(mode="json"),
        points=result.points,
        metrics=first.metrics,
        best=first,
        warnings=result.warnings,
        invalid=result.invalid,
    )
