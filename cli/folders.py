"""What `iobench storage` measures in a folder besides reads of data: names (--metadata) and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..terminal import Screen
from .journal import Journal

if TYPE_CHECKING:
    from ..storage_bench.checkpoint import CheckpointResult
    from ..storage_bench.metadata import MetadataResult


def measure_names(
    path: Path, flags: dict[str, Any], config: Path | None, sets: Sequence[str], out: Path | None, *, json: bool
) -> None:
    """`iobench storage PATH --metadata`."""
    from ..configs import load as load_config
    from ..results.plots.folders import names_finding
    from ..storage_bench.metadata import MetadataConfig, measure_metadata

    settings = load_config(MetadataConfig, file=config, sets=sets, flags=flags)
    journal = Journal("storage", path, out, json=json)
    with Screen() as screen:
        result = measure_metadata(path, settings, on_block=lambda share, text: screen.show("metadata", share, text))
    _finish(journal, settings.model_dump(mode="json"), result, names_finding(result.points[0]))


def measure_checkpoints(
    path: Path, flags: dict[str, Any], config: Path | None, sets: Sequence[str], out: Path | None, *, json: bool
) -> None:
    """`iobench storage PATH --checkpoint SIZE`."""
    from ..configs import load as load_config
    from ..results.plots.folders import checkpoint_finding
    from ..storage_bench.checkpoint import CheckpointConfig, measure_checkpoint

    settings = load_config(CheckpointConfig, file=config, sets=sets, flags=flags)
    journal = Journal("storage", path, out, json=json)
    with Screen() as screen:
        result = measure_checkpoint(
            path, settings, on_sample=lambda share, text: screen.show("checkpoint", share, text)
        )
    _finish(journal, settings.model_dump(mode="json"), result, checkpoint_finding(result.points))


def _finish(
    journal: Journal, workload: dict[str, Any], result: MetadataResult | CheckpointResult, finding: str
) -> None:
    """A record whose own figures are those of the first point, and what was found as its sentence."""
    first = result.points[0]
    journal.finish(
        workload=workload,
        points=result.points,
        metrics=first.metrics,
        best=first,
        warnings=result.warnings,
        invalid=result.invalid,
        sentence=f"{finding[0].upper()}{finding[1:]}." if finding else "",
    )
