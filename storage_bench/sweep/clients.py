"""The same sweep by several processes at once, started together: what each reaches, and all of them.

    points, refused here where they cannot be -> launch -> client.py on every rank -> their blocks, put together

A block of all clients is the sum of theirs: they began it together and ran it for the same time.  Devices are counted
once on each host, by its first client; what a process made devices read is counted by each.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...loaders.evidence import CounterSet, counter_for
from ..latency import LatencyHistogram, merge
from ..launching.hosts import HostSlots
from ..launching.launch import launch_ranks, require_ranks
from ..workload import StorageConfig, folder_of
from .drive import MAX_RAMP_S
from .points import BlockResult, Client, PointResult, SlowRead, SweepPoint, Tail
from .proof import collect_evidence, mean_known, sum_known
from .refusals import check_size
from .run import files_of, planned_points

CLIENT_MODULE = "iobench.storage_bench.sweep.client"
START_S = 60.0
BLOCK_S = 10.0  # what cleaning up before a block, meeting and calibrating may take beside it

Show = Callable[[str, float, str], None]


def sweep_by_clients(
    path: Path,
    config: StorageConfig,
    *,
    show: Show,
    hosts: Sequence[HostSlots] = (),
    ssh: Sequence[str] = ("ssh",),
    results: list[PointResult] | None = None,
) -> list[PointResult]:
    """Every combination of `config` by `config.clients` processes at once; a point that fails has the error.

    They run here, or on `hosts`, where the data lie at the same path.  Raises LaunchError where they cannot be started,
    or one of them ends.  Who is interrupted finds the blocks that all clients had done in `results`, where that is
    handed in.
    """
    results = [] if results is None else results
    require_ranks(config.clients)
    files = files_of(path, config)
    points = planned_points(path, config, files)
    for point, _ in points:
        check_size(replace(point, threads=point.threads * config.clients), files)
    plan = {
        "path": str(path.resolve()),
        "config": config.model_dump(mode="json"),
        "points": [asdict(point) for point, _ in points],
    }
    block_s = config.seconds + MAX_RAMP_S + BLOCK_S
    counter = counter_for([file.path for file in files] or [folder_of(path)])
    told: list[dict[str, Any]] = []

    def on_progress(block: dict[str, Any]) -> None:
        told.append(block)
        show("storage", block["done"] / block["total"], _words(block))

    with tempfile.TemporaryDirectory(prefix="iobench-clients-") as folder:
        try:
            answers = launch_ranks(
                CLIENT_MODULE,
                plan,
                num_ranks=config.clients,
                folder=Path(folder),
                timeout_s=START_S + len(points) * (config.blocks * block_s + config.patience_s),
                on_progress=on_progress,
                hosts=hosts,
                ssh=ssh,
            )
        except KeyboardInterrupt:
            results += _put_together(points, _so_far(told, num_points=len(points)), counter)
            raise
    results += _put_together(points, answers, counter)
    return results


def _put_together(
    points: Sequence[tuple[SweepPoint, str]], answers: Sequence[dict[str, Any]], counter: CounterSet
) -> list[PointResult]:
    """The points, with what each client answered of them."""
    clients = tuple(Client(answer["host"], answer["pid"], answer["local_rank"]) for answer in answers)
    results = []
    for number, (point, reason) in enumerate(points):
        result = together(PointResult(point, reason, clients=clients), [answer["points"][number] for answer in answers])
        if result.blocks:
            result.evidence = collect_evidence(result, counter, answers[0]["background_bps"])
        results.append(result)
    return results


def _so_far(told: Sequence[dict[str, Any]], *, num_points: int) -> list[dict[str, Any]]:
    """What each client would have answered of the blocks that all had done."""
    answers = [
        {**client, "background_bps": told[0]["background_bps"], "points": [_nothing() for _ in range(num_points)]}
        for client in (told[0]["clients"] if told else ())
    ]
    for block in told:
        for answer, client in zip(answers, block["clients"], strict=True):
            point = answer["points"][block["which"]]
            point |= {name: client[name] for name in ("error", "consequence", "ceiling_gbps")}
            point["blocks"] += [client["block"]] if client["block"] is not None else []
    return answers


def _nothing() -> dict[str, Any]:
    return {"error": None, "consequence": False, "ceiling_gbps": None, "blocks": []}


def together(result: PointResult, told: Sequence[dict[str, Any]]) -> PointResult:
    """Put into `result` what all clients told of a point."""
    errors = sorted((each["consequence"], each["error"]) for each in told if each["error"] is not None)
    result.error = errors[0][1] if errors else None
    ceilings = [each["ceiling_gbps"] for each in told]
    result.ceiling_gbps = None if None in ceilings else sum(ceilings)
    first = [client.local_rank == 0 for client in result.clients]
    for blocks in zip(*(each["blocks"] for each in told), strict=False):  # a client that failed has one less
        result.blocks.append(sum_of(blocks, first_of_host=first))
    return result


def sum_of(blocks: Sequence[dict[str, Any]], *, first_of_host: Sequence[bool]) -> BlockResult:
    """One block of all clients."""
    hosts = [block for block, first in zip(blocks, first_of_host, strict=True) if first]
    tails = [block["tail"] for block in blocks if block["tail"] is not None]
    waits = [block["lock_waits"] for block in blocks if block["lock_waits"] is not None]
    return BlockResult(
        gbps=sum(block["gbps"] for block in blocks),
        iops=sum(block["iops"] for block in blocks),
        latencies=merge(_histogram(block["latencies"]) for block in blocks),
        delivered_bytes=sum(block["delivered_bytes"] for block in blocks),
        payload_bytes=sum(block["payload_bytes"] for block in blocks),
        device_bytes=sum_known([block["device_bytes"] for block in hosts]),
        process_bytes=sum_known([block["process_bytes"] for block in blocks]),
        seconds=max(block["seconds"] for block in blocks),
        cache_fraction=mean_known([block["cache_fraction"] for block in hosts]),
        cache_fraction_after=mean_known([block["cache_fraction_after"] for block in hosts]),
        beside=_beside(blocks, hosts),
        tail=_tail(tails) if tails else None,
        slow=tuple(SlowRead(**slow) for block in blocks for slow in block["slow"]),
        lock_waits=float(np.mean(waits)) if waits else None,
        rank_gbps=tuple(block["gbps"] for block in blocks),
    )


def _words(told: dict[str, Any]) -> str:
    rate = "failed" if told["gbps"] is None else f"{told['gbps']:.2f} GB/s each"
    return f"{told['words']}: {rate}"


def _histogram(told: dict[str, Any]) -> LatencyHistogram:
    histogram = LatencyHistogram(max_ns=told["max_ns"])
    histogram.counts[told["buckets"]] = told["counts"]
    return histogram


def _tail(tails: Sequence[dict[str, float]]) -> Tail:
    return Tail(
        first_done_s=min(tail["first_done_s"] for tail in tails),
        last_done_s=max(tail["last_done_s"] for tail in tails),
        slowest_gbps=min(tail["slowest_gbps"] for tail in tails),
        fastest_gbps=max(tail["fastest_gbps"] for tail in tails),
    )


def _beside(blocks: Sequence[dict[str, Any]], hosts: Sequence[dict[str, Any]]) -> dict[str, int]:
    """kvikio counts for each process, everything else for each host."""
    counted: dict[str, int] = {}
    for group, of_process in ((blocks, True), (hosts, False)):
        for name, count in (item for block in group for item in block["beside"].items()):
            if name.startswith("kvikio_") is of_process:
                counted[name] = counted.get(name, 0) + count
    return counted
