"""Where ranks stood, and which of them read through one file system client: what a record says of both.

A host mounts a file system once: all its ranks read through that one client, with its connections and its read-ahead.
What the ranks of a host read together is the client's rate; each rank's own is with its report.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..loaders.network_card import nodes_of_cards, way_to
from ..loaders.topology import parse_cores
from ..results.quantities import counted
from ..results.record import Metric, not_measured
from ..results.stats import summarise

NOTHING_READ = "nothing was read from files"
CLIENT_RATE = "client_read_gbps"
RANK_RATE = "read_gbps"
INHERITED = "where their rank stands"


def told_of_places(results: Sequence[Mapping[str, Any]], path: Path) -> dict[str, Any]:
    """What a record's workload says of its ranks: where each was `placed`, and the `clients` that they shared.

    `communication` has the variables about interfaces, cores and GPUs that the first rank found, of which Horovod's
    launcher has set those that the user had not, and this host's network cards with their NUMA nodes.  The way to the
    storage under `path` is this host's, too.
    """
    return {
        "placed": [_placed(result) for result in results],
        "clients": clients(results),
        "storage_way": way_to(path).reason,
        "communication": {"variables": dict(results[0]["stood"]["hints"]), "cards": nodes_of_cards()},
    }


def _placed(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a rank was given and why, and on which cores the kernel had its threads, and of these its readers."""
    stood = {name: result["stood"][name] for name in ("cores", "node", "reason", "threads")}
    readers = {"readers": result["readers"], "readers_reason": result.get("placement", INHERITED)}
    return {"rank": result["rank"], "host": result["host"], **stood, **readers}


def place_warnings(results: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """What is wrong with cores: fewer than ranks, processes bound by OpenMP, threads outside those of their rank."""
    return (*_crowded(results), *_bound_by_openmp(results), *(text for each in results for text in _strayed(each)))


def _crowded(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Ranks that have to share cores only because the job may not use the others."""
    stood_by_rank = {result["rank"]: result["stood"] for result in results}
    for client in clients(results):
        stood = stood_by_rank[client["ranks"][0]]
        num_usable, num_ranks = len(parse_cores(stood["usable"])), len(client["ranks"])
        if num_usable < num_ranks and num_usable < (stood["online"] or 0):
            yield (
                f"{num_ranks} ranks on {client['host']} share {counted(num_usable, 'core')} of {stood['online']}: "
                f"taskset, a cgroup or the job allows no more; ask for a core for each rank at least"
            )


def _bound_by_openmp(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """With OMP_PROC_BIND its library puts whoever loads it on one place: all ranks on the same, before they begin."""
    hints = results[0]["stood"]["hints"]
    bind = hints.get("OMP_PROC_BIND", "false" if "OMP_PLACES" not in hints else "true")
    if bind.lower() != "false":
        yield (
            "OMP_PROC_BIND or OMP_PLACES has OpenMP put each process on cores of its own choice before ranks are given "
            "theirs, all on the same: leave them out, placement does it"
        )


def _strayed(result: Mapping[str, Any]) -> Iterator[str]:
    given = result["stood"]["cores"]
    if given is None:
        return
    may = parse_cores(given)
    out = [cores for cores in (*result["stood"]["threads"], *result["readers"]) if not parse_cores(cores) <= may]
    if out:
        yield f"rank {result['rank']} was given cores {given}, and has threads on {', '.join(out)}"


@dataclass(frozen=True, slots=True)
class Read:
    """What one rank read in one time block, and how long it was at it."""

    num_bytes: int
    seconds: float


def clients(results: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The hosts that the ranks ran on, once a machine, and which ranks shared each one's file system client."""
    found: dict[str, dict[str, Any]] = {}
    for result in results:
        client = found.setdefault(result["machine"], {"host": result["host"], "ranks": []})
        client["ranks"].append(result["rank"])
    return list(found.values())


def client_rate(blocks: Sequence[Mapping[int, Read]], machines: Mapping[int, str]) -> Metric:
    """GB/s that the ranks of one machine read together, a sample for each block, as the mean of all machines.

    `blocks` have the reads of each rank; a machine's rate is what its ranks read over the time of the slowest.
    """
    samples = []
    for block in blocks:
        together: dict[str, list[Read]] = defaultdict(list)
        for rank, read in block.items():
            together[machines[rank]].append(read)
        samples.append(sum(map(_gbps, together.values())) / len(together))
    return _rate(samples)


def rank_rates(blocks: Sequence[Mapping[int, Read]]) -> dict[int, Metric]:
    """GB/s of each rank, a sample for each block."""
    ranks = dict.fromkeys(rank for block in blocks for rank in block)
    return {rank: _rate([_gbps([block[rank]]) for block in blocks if rank in block]) for rank in ranks}


def _rate(samples: Sequence[float]) -> Metric:
    return summarise(samples, unit="GB/s") if any(samples) else not_measured("GB/s", NOTHING_READ)


def _gbps(reads: Sequence[Read]) -> float:
    return sum(read.num_bytes for read in reads) / max(read.seconds for read in reads) / 1e9
