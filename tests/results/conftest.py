"""A whole record of the main job, with figures as a run on a slow disk would give them."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from iobench.results.record import Metric, Point, RankReport, ReadPath, Requirement, RunRecord, Verdict, not_measured
from iobench.results.stats import summarise

BATCH, RECORD_BYTES, STEP_TIME_S, THRESHOLD = 400, 114_660, 0.224, 0.9
DEMAND_GBPS = BATCH * RECORD_BYTES / STEP_TIME_S / 1e9
RATE_GBPS = {1: 0.238, 2: 0.447, 3: 0.612, 4: 0.626}


def measured(value: float, unit: str, *, noise: float = 0.01, n: int = 8) -> Metric:
    """A metric of `n` blocks around a value; the noise depends on value and unit, not on what was made before."""
    random = np.random.default_rng([*f"{value:.9g} {unit}".encode()])
    return summarise((value * (1 + random.normal(0, noise, n))).tolist(), unit=unit)


def proof(engine: str, delivered: int, *, device: int | None, scope: str = "client") -> ReadPath:
    """A host read proven by the block device's counters, or not proven at all."""
    return ReadPath(
        engine=engine,
        requested_route="host",
        observed_route="host" if device is not None else "unknown",
        route_evidence="sda: 512-byte sectors read, background subtracted" if device is not None else "no counter",
        counter_class="exact" if device is not None else "none",
        page_cache="cold",
        cache_fraction=0.0 if device is not None else None,
        cold_scope=scope,
        delivered_bytes=delivered,
        payload_bytes=int(delivered * 0.97),
        device_bytes=device,
        read_amplification=None if device is None else device / delivered,
        counters={} if device is None else {"sda.sectors_read": device // 512},
    )


def storage_point(rate: float, *, threads: int, access: str, block_size: int, flags: Sequence[str] = ()) -> Point:
    in_flight = threads * 4
    latency_us = in_flight * block_size / rate / 1e3
    delivered = int(rate * 40e9)
    return Point(
        params={
            "stage": "storage",
            "engine": "direct",
            "access": access,
            "block_size_bytes": block_size,
            "queue_depth": 4,
            "threads": threads,
            "page_cache": "cold",
        },
        read_path=proof("direct", delivered, device=int(delivered * 1.001)),
        metrics={
            "read_gbps": measured(rate, "GB/s"),
            "read_iops": measured(rate * 1e9 / block_size, "1/s"),
            "latency_p50_us": measured(latency_us * 0.9, "us"),
            "latency_p99_us": measured(latency_us * 2.3, "us", noise=0.04),
        },
        flags=tuple(flags),
    )


def step_parts(source: str, num_ranks: int) -> dict[str, float]:
    needed_s = BATCH * RECORD_BYTES * num_ranks / (RATE_GBPS[num_ranks] * 1e9)
    wait = {"synthetic": 0.0004, "staged": 0.0011, "direct": max(0.006, needed_s - STEP_TIME_S)}[source]
    return {
        "compute_s": STEP_TIME_S,
        "data_wait_s": wait,
        "sync_wait_s": 0.0006 * num_ranks,
        "overhead_s": 0.0009,
    }


def train_point(source: str, num_ranks: int, flags: Sequence[str] = ()) -> Point:
    parts = step_parts(source, num_ranks)
    step = sum(parts.values())

    def metrics(scale: float = 1.0) -> dict[str, Metric]:
        return {
            "step_time_s": measured(step, "s", noise=0.003),
            **{name: measured(value * scale, "s", noise=0.02) for name, value in parts.items()},
            "images_per_s": measured(num_ranks * BATCH / step, "images/s"),
            "data_stall_fraction": measured(parts["data_wait_s"] / step, "1"),
            "gpu_data_wait_s": not_measured("s", "no CUDA device"),
            "au_mlperf": measured(STEP_TIME_S / step, "1", noise=0.004),
        }

    return Point(
        params={
            "stage": "train",
            "source": source,
            "num_ranks": num_ranks,
            "accelerator": "h100",
            "emulated": True,
            "scaled": False,
            "batch_size": BATCH,
            "step_time_s": STEP_TIME_S,
        },
        read_path=None
        if source == "synthetic"
        else proof("direct", int(5.5e9 * num_ranks), device=int(5.52e9 * num_ranks)),
        metrics=metrics(),
        ranks=tuple(
            RankReport(rank=rank, local_rank=rank, pid=41_200 + rank, host="node1", metrics=metrics(1 + 0.02 * rank))
            for rank in range(num_ranks)
        ),
        flags=tuple(flags),
    )


def load_point(engine: str, images_per_s: float, shuffle: str) -> Point:
    rate = images_per_s * RECORD_BYTES / 1e9
    return Point(
        params={
            "stage": "load",
            "engine": engine,
            "batch_size": BATCH,
            "shuffle": shuffle,
            "num_workers": 4,
            "page_cache": "cold",
        },
        read_path=proof(engine, int(rate * 30e9), device=None if engine == "mmap" else int(rate * 30.1e9)),
        metrics={
            "images_per_s": measured(images_per_s, "images/s"),
            "read_gbps": measured(rate, "GB/s"),
            "data_wait_s": measured(BATCH / images_per_s, "s"),
            "cpu_seconds_per_gb": measured(0.31, "s/GB"),
            "peak_rss_bytes": Metric(value=912_000_000, unit="bytes", n=1),
        },
    )


def stage_point() -> Point:
    return Point(
        params={"stage": "stage", "streams": 4, "bytes": 143_440_000_000},
        metrics={"stage_time_s": measured(233.0, "s"), "read_gbps": measured(0.616, "GB/s")},
    )


def qualify_points() -> tuple[Point, ...]:
    blocks = (65_536, 1 << 20, 4 << 20, 16 << 20)
    replay = [
        storage_point(rate, threads=threads, access="shard-replay", block_size=4 << 20)
        for threads, rate in RATE_GBPS.items()
    ]
    sweep = [
        storage_point(
            0.63 * block / (block + offset),
            threads=2,
            access=access,
            block_size=block,
            flags=["noisy"] if noisy else [],
        )
        for access, offset, noisy in (("sequential", 2e4, False), ("random", 3e5, True))
        for block in blocks
    ]
    loads = [
        load_point("direct", 5210.0, "records"),
        load_point("direct", 5390.0, "blocks"),
        load_point("mmap", 4830.0, "records"),
    ]
    trains = [
        train_point(source, num_ranks, flags=["harness_limited"] if (source, num_ranks) == ("staged", 4) else [])
        for num_ranks in (2, 3, 4)
        for source in ("synthetic", "staged", "direct")
    ]
    return (*replay, *sweep, *loads, stage_point(), *trains)


def copy_or_not() -> dict[str, object]:
    epochs = list(range(1, 9))
    direct = [233.0 * epoch for epoch in epochs]
    staged = [236.0 + 72.0 * epoch for epoch in epochs]
    return {
        "outcome": "copy after 2",
        "sentence": "Copying the data to the local disk first takes 233 s and is repaid by the second epoch.",
        "epochs": epochs,
        "direct_s": direct,
        "staged_s": staged,
    }


def environment() -> dict[str, object]:
    return {
        "host": "node1",
        "os": "Debian GNU/Linux 12 (bookworm)",
        "kernel": "Linux 6.1.0",
        "cpu": {"model": "AMD EPYC 9354", "logical_cores": 64, "usable_cores": 64, "governor": None},
        "memory_bytes": 270_000_000_000,
        "in_container": False,
        "gpus": [],
        "gpus_reason": "NVML: Driver Not Loaded",
        "python": "3.11.7",
        "iobench": "0.1.0",
        "versions": {"torch": "2.13.0", "horovod": "0.28.1", "numpy": "2.4.6", "kvikio": None, "nvidia-dali": None},
        "storage": {
            "path": "~/data/imagenet",
            "mount_point": "/",
            "fstype": "ext4",
            "source": "/dev/sda1",
            "options": ["rw", "relatime"],
            "free_bytes": 78_868_058_112,
            "devices": [
                {
                    "name": "sda",
                    "model": "SLOW 4000",
                    "size_bytes": 4_000_787_030_016,
                    "rotational": True,
                    "scheduler": "mq-deadline",
                }
            ],
            "devices_reason": None,
            "reason": None,
        },
    }


def verdict() -> Verdict:
    return Verdict(
        outcome="pass",
        passed=True,
        sentence="This storage feeds 3 emulated H100 (ResNet-50, 114,660 bytes per image, batch 400): "
        "3 ranks kept AU 0.97 against a threshold of 0.90, which needs 0.55 GB/s.",
        requirements=(
            Requirement(
                name="gpus",
                text="feeds at least 2 accelerators",
                required=2,
                measured=3,
                unit="accelerators",
                passed=True,
            ),
            Requirement(name="au", text="AU at 3 ranks", required=0.9, measured=0.968, unit="1", passed=True),
            Requirement(
                name="end_to_end", text="server cache ruled out", required=1, measured=None, unit="1", passed=None
            ),
        ),
        measured_seconds=431.7,
        measured_bytes=402_300_000_000,
    )


def headline(points: Sequence[Point]) -> dict[str, Metric]:
    best = next(point for point in points if point.params.get("threads") == 4).metrics
    fed = next(p for p in points if (p.params.get("source"), p.params.get("num_ranks")) == ("direct", 3)).metrics
    return {
        **best,
        "images_per_s": fed["images_per_s"],
        "step_time_s": fed["step_time_s"],
        "data_wait_s": fed["data_wait_s"],
        "sync_wait_s": fed["sync_wait_s"],
        "data_stall_fraction": fed["data_stall_fraction"],
        "gpu_data_wait_s": not_measured("s", "no CUDA device"),
        "au_mlperf": fed["au_mlperf"],
        "gpus_fed_predicted": Metric(value=3, unit="accelerators", ci95=(3, 3), n=8),
        "gpus_fed_measured": Metric(value=3, unit="accelerators", n=8),
        "stage_time_s": measured(233.0, "s"),
        "break_even_epochs": Metric(value=2, unit="epochs", n=8),
        "cpu_seconds_per_gb": measured(0.31, "s/GB"),
        "peak_rss_bytes": Metric(value=912_000_000, unit="bytes", n=1),
        "joules_per_image": not_measured("J", "no energy counter is readable"),
        "scaling_efficiency": not_measured("1", "qualify runs on one node"),
    }


def qualify_record() -> RunRecord:
    points = qualify_points()
    return RunRecord(
        run_id="20240607-101500-qualify-1a2b",
        kind="qualify",
        started_at="2024-06-07T10:15:00+00:00",
        finished_at="2024-06-07T10:23:41+00:00",
        command=("iobench", "qualify", "~/data/imagenet", "--preset", "quick", "--set", "workload.epochs=8"),
        workload={
            "path": "~/data/imagenet",
            "preset": "quick",
            "accelerator": "h100",
            "emulated": True,
            "scaled": False,
            "batch_size": BATCH,
            "step_time_s": STEP_TIME_S,
            "record_bytes": RECORD_BYTES,
            "demand_gbps": DEMAND_GBPS,
            "au_threshold": THRESHOLD,
            "engine": "direct",
            "dataset": {"num_images": 1_251_000, "num_shards": 1000, "bytes": 143_440_000_000, "shape": [300, 127, 3]},
            "copy_or_not": copy_or_not(),
        },
        environment=environment(),
        read_path=points[3].read_path,
        metrics=headline(points),
        points=points,
        verdict=verdict(),
        warnings=(
            "sequential and random blocks of 64 KiB: the interval stayed wider than ±3 %",
            "cold means cold on this client: the server's cache was not ruled out",
        ),
    )


@pytest.fixture
def qualified() -> RunRecord:
    """A record of `iobench qualify` that passed."""
    return qualify_record()


def grid_points(speed: float) -> list[Point]:
    """A grid of 1 and 2 nodes with 1 and 2 ranks each, that stalls more the larger it is."""
    found = []
    for nodes, gpus, source in [(n, g, s) for n in (1, 2) for g in (1, 2) for s in ("synthetic", "direct")]:
        stall = 0.0 if source == "synthetic" else 0.05 * nodes * gpus
        rate = 100 * speed * nodes * gpus * (1 - stall)
        bare = {"stage": "scale", "source": source, "nodes": nodes, "gpus_per_node": gpus, "workload": "train"}
        about = {"num_ranks": nodes * gpus, "accelerator": "h100", "emulated": True, "nodes_simulated": True}
        metrics = {
            "images_per_s": measured(rate, "images/s"),
            "scaling_efficiency": measured(1 - stall, "fraction"),
            "data_stall_fraction": measured(stall, "fraction"),
            "read_gbps": not_measured("GB/s", "synthetic batches are not read")
            if source == "synthetic"
            else measured(rate * RECORD_BYTES / 1e9, "GB/s"),
        }
        found.append(Point(params=bare | about, metrics=metrics))
    return found


def hop_points() -> list[Point]:
    """A ladder whose last rung is dear, and one rung that was not run."""
    shared = {"stage": "hop", "num_ranks": 2, "accelerator": "h100", "emulated": True}
    steps = {"synthetic": (0.224, None), "host": (0.23, 0.006), "direct": (0.3, 0.07)}
    found = [
        Point(
            params=shared | {"hop": hop},
            metrics={
                "step_time_s": measured(step, "s"),
                "hop_cost_s": not_measured("s", "the first rung") if cost is None else measured(cost, "s"),
            },
        )
        for hop, (step, cost) in steps.items()
    ]
    missing = {"step_time_s": not_measured("s", "no page cache"), "hop_cost_s": not_measured("s", "no page cache")}
    return [*found, Point(params=shared | {"hop": "warm"}, metrics=missing)]


def limit_points() -> list[Point]:
    """Roofs with a measured model under them, energies, and reads with all percentiles."""
    percentiles = {"p50": 900.0, "p90": 1400.0, "p99": 2900.0, "p99_9": 8000.0, "max": 9100.0}
    read = storage_point(0.5, threads=4, access="random", block_size=1 << 20, flags=["knee"])
    metrics = {f"latency_{name}_us": measured(value, "us") for name, value in percentiles.items()}
    roofs = {"compute": 4000.0, "storage bandwidth": 1500.0, "measured": 1380.0}
    return [
        read.model_copy(update={"metrics": read.metrics | metrics}),
        *(
            Point(
                params={"stage": "roofline", "model": "resnet50", "roof": roof},
                metrics={"images_per_s": measured(rate, "images/s")},
            )
            for roof, rate in roofs.items()
        ),
        Point(
            params={"stage": "infer", "source": "direct", "num_ranks": 1},
            metrics={
                "joules_per_image": measured(0.21, "J/image"),
                "idle_joules_per_image": measured(0.05, "J/image"),
            },
        ),
    ]


@pytest.fixture
def grid() -> Callable[..., RunRecord]:
    """A record of a grid on a host of this name, so many times as fast."""

    def run(host: str = "node1", speed: float = 1.0) -> RunRecord:
        update = {"kind": "scale", "verdict": None, "points": tuple(grid_points(speed)), "run_id": f"run-{host}"}
        return qualify_record().model_copy(update=update | {"environment": {"host": host}, "metrics": {}})

    return run


def chain_points() -> tuple[Point, ...]:
    """A copy by way of a second storage: of two hops, the second the slower one."""
    return tuple(
        Point(
            params={"stage": "stage", "hop": hop, "source": f"~/storage{hop}", "target": f"~/storage{hop + 1}"},
            metrics={
                "stage_time_s": measured(copy_s, "s"),
                "read_gbps": measured(143.4 / copy_s, "GB/s"),
                "verify_time_s": measured(80.0, "s"),
            },
        )
        for hop, copy_s in ((1, 120.0), (2, 233.0))
    )


@pytest.fixture
def everything(qualified: RunRecord) -> RunRecord:
    """The record of the main job with every other kind of point added, so that the page has all its pictures."""
    added = (*grid_points(1.0), *hop_points(), *limit_points(), *chain_points())
    return qualified.model_copy(update={"points": (*qualified.points, *added)})


@pytest.fixture
def only() -> Callable[..., RunRecord]:
    """Cut the qualify record down to what a single bench writes."""

    def cut(kind: str) -> RunRecord:
        whole = qualify_record()
        points = tuple(point for point in whole.points if point.params["stage"] == kind)
        names = {name for point in points for name in point.metrics}
        return whole.model_copy(
            update={
                "kind": kind,
                "verdict": None,
                "points": points,
                "metrics": {name: metric for name, metric in whole.metrics.items() if name in names},
                "workload": {"path": whole.workload["path"]},
                "command": ("iobench", kind, "~/data/imagenet"),
            }
        )

    return cut
