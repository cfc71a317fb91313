"""`iobench stage` in the record's form: its settings, a point a hop, the two readings, and what they say."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ...results.mounts import mount_of
from ...results.privacy import public_path
from ...results.record import Metric, Point, not_measured
from ..workload import Bytes
from .chain import ChainResult
from .compare import Comparison
from .hop import stage_point


class StageConfig(BaseModel):
    """How a chain is copied, and over what it is weighed; SRC may be a sample of `dataset_bytes`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    streams: Annotated[int, Field(ge=1, le=64)] = 4
    compare: bool = True
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 10
    dataset_bytes: Bytes | None = None
    seconds: Annotated[float, Field(gt=0, le=3600)] = 20.0


def stage_points(chain: ChainResult, found: Comparison | None) -> list[Point]:
    """One point a hop, then those of reading in place and from the copy."""
    hops = [stage_point(hop, hop=number) for number, hop in enumerate(chain.hops, 1)]
    return [*hops, *(found.points if found is not None else ())]


def stage_metrics(chain: ChainResult, found: Comparison | None) -> dict[str, Metric]:
    """The chain's own figures: all hops together, and the break-even."""
    verify_s = sum(hop.verify_s for hop in chain.hops)
    copied = sum(hop.copied_bytes for hop in chain.hops)
    metrics = {"verify_time_s": Metric(value=verify_s, unit="s", n=1)}
    if not copied:
        nothing = "every shard was there already, nothing had to be copied"
        metrics |= {"stage_time_s": not_measured("s", nothing), "read_gbps": not_measured("GB/s", nothing)}
    else:
        copy_s = sum(hop.copy_s for hop in chain.hops if hop.copied_bytes)
        reason = None if len(chain.hops) == 1 else "bytes of the data set over the time of all hops"
        rate = (
            Metric(value=chain.total_bytes / 1e9 / whole_s, unit="GB/s", n=1, reason=reason)
            if (whole_s := chain.seconds_for(chain.total_bytes))
            else not_measured("GB/s", "the shards of a hop were there already")
        )
        metrics |= {"stage_time_s": Metric(value=copy_s, unit="s", n=1), "read_gbps": rate}
    if found is None:
        even = not_measured("epochs", "not compared with reading in place: --no-compare")
    else:
        even = found.choice.as_metric(n=found.num_rounds)
    return {**metrics, "break_even_epochs": even}


def stage_workload(chain: ChainResult, found: Comparison | None, config: StageConfig) -> dict[str, Any]:
    """What was copied from where to where, under which versions, and the two curves."""
    remote = {name: version for name, version in chain.hops[0].versions.items() if chain.source_folder is None}
    return {
        "path": chain.source,
        "hops": [public_path(hop.target) for hop in chain.hops],
        "file_systems": [_file_system(chain)] + [mount_of(hop.target).fstype for hop in chain.hops],
        "verified_by": chain.hops[0].verified_by,
        "dataset": {"bytes": chain.total_bytes, "num_shards": chain.hops[0].num_files},
        **({"objects": remote} if remote else {}),
        **({"copy_or_not": found.choice.as_workload()} if found is not None else {}),
        "config": config.model_dump(mode="json"),
    }


def _file_system(chain: ChainResult) -> str:
    if chain.source_folder is None:
        return chain.source.partition("://")[0]
    return mount_of(chain.source_folder).fstype
