"""Which cores ranks are given, on made-up machines; and that all their threads stand there, on this one.

Not shown: what that is worth with several GPUs and sockets, which no machine here has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from iobench.loaders.topology import CoresError, format_cores, parse_cores
from iobench.storage_bench.launching import placing
from iobench.storage_bench.launching.launch import horovod_available, launch_ranks
from iobench.storage_bench.launching.placing import Feeds, Placing, choose

PROGRAMS = Path(__file__).parents[1] / "programs"
MISSING = horovod_available()
CORES = sorted(os.sched_getaffinity(0))
needs_ranks = [
    pytest.mark.horovod,
    pytest.mark.skipif(MISSING is not None, reason=f"Horovod: {MISSING}"),
    pytest.mark.skipif(len(CORES) < 2, reason="this process may use one core only"),
]
GPUS = [f"0000:{bus:02x}:00.0" for bus in (0x3B, 0x3C, 0xAF, 0xB0)]

Machine = Callable[..., list[str]]


@pytest.fixture
def chosen(made_machine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The cores of each of four ranks on a machine of two sockets with two GPUs each, which torch tells of."""
    nodes = dict(zip(GPUS, (0, 0, 1, 1), strict=True))
    sysfs = made_machine({0: "0-3", 1: "4-7"}, devices=nodes)
    monkeypatch.setattr(placing, "addresses_of_gpus", lambda count, *, mine: GPUS[:count])

    def choices(asked: str, feeds: Feeds = "cuda", *, ranks: int = 4, allowed: str = "0-7") -> list[str]:
        may = parse_cores(allowed)
        found = [
            choose(Placing(asked, feeds), local_rank=rank, local_size=ranks, allowed=may, sysfs=sysfs)
            for rank in range(ranks)
        ]
        return [format_cores(near.cores) or near.reason for near in found]

    return choices


def test_ranks_on_gpus_have_a_part_of_their_gpus_socket(chosen: Machine) -> None:
    assert chosen("auto") == ["0-1", "2-3", "4-5", "6-7"]
    assert chosen("auto", ranks=3) == ["0-1", "2-3", "4-7"]


def test_ranks_keep_to_the_cores_of_their_job(chosen: Machine) -> None:
    """Of a cpuset without GPU 2's and 3's node all four ranks have cores at the other."""
    assert chosen("auto", allowed="0-3") == ["0", "1", "2", "3"]
    assert chosen("auto", allowed="1,3,6-7") == ["1", "3", "6", "7"]


def test_ranks_that_compute_on_the_cpu_have_equal_parts(chosen: Machine) -> None:
    assert chosen("auto", "cpu") == ["0-1", "2-3", "4-5", "6-7"]
    assert chosen("auto", "cpu", ranks=2) == ["0-3", "4-7"]


def test_who_is_alone_or_sleeps_through_steps_is_left_to_the_kernel(chosen: Machine) -> None:
    assert chosen("auto", ranks=1) == ["alone on its host: it may use all cores"]
    assert set(chosen("auto", "emulated")) == {"an emulated accelerator needs no core of its own: ranks share them all"}
    assert set(chosen("off")) == {"left to the kernel, as was asked for"}
    assert set(chosen("auto", allowed="2-3")) == {"4 ranks share 2 cores: left to the kernel"}


def test_cores_that_were_asked_for_are_taken_as_they_are(chosen: Machine) -> None:
    assert chosen("0;7;1-2;5") == ["0", "7", "1-2", "5"]
    assert chosen("0-3", "emulated") == ["0", "1", "2", "3"]
    assert chosen("1-6", "cuda", ranks=3) == ["1-2", "3", "4-6"], "each GPU's node first, here too"
    assert chosen("2-5", ranks=1) == ["2-5"]
    assert chosen("0-1;2-3", ranks=1) == ["0-1"]


def test_cores_that_may_not_be_used_or_are_too_few_lists_are_refused(chosen: Machine) -> None:
    with pytest.raises(CoresError, match=r"cores 8-9 may not be used here, 0-7 may"):
        chosen("0-9")
    with pytest.raises(CoresError, match="gives cores to 2 ranks, and 4 run on one host"):
        chosen("0-3;4-7")


@pytest.fixture
def one_core() -> Iterator[int]:
    """This thread, and all that it starts, on one core, as taskset has it."""
    os.sched_setaffinity(0, {CORES[0]})
    yield CORES[0]
    os.sched_setaffinity(0, CORES)


def run(folder: Path, asked: str, *, feeds: Feeds = "cpu", num_ranks: int = 2) -> list[dict[str, Any]]:
    return launch_ranks(
        "rank_threads",
        {},
        num_ranks=num_ranks,
        folder=folder,
        timeout_s=60,
        emulated=False,
        placing=Placing(asked, feeds),
        environment={"PYTHONPATH": str(PROGRAMS)},
    )


@pytest.mark.parametrize("num_ranks", [pytest.param(2, marks=needs_ranks)])
def test_every_thread_of_a_rank_stands_on_its_cores_horovods_and_torchs_too(tmp_path: Path, num_ranks: int) -> None:
    results = run(tmp_path, "auto", num_ranks=num_ranks)
    half = -(-len(CORES) // 2)
    for result, cores in zip(results, (CORES[:half], CORES[half:]), strict=True):
        assert set(result["allowed"]) == {format_cores(cores)}
        assert len(result["allowed"]) >= 3
        assert result["stood"]["cores"] == format_cores(cores)
        assert result["stood"]["reason"].endswith(f"part {result['rank'] + 1} of 2")
        assert set(result["stood"]["threads"]) == {format_cores(cores)}


@pytest.mark.slow
@pytest.mark.parametrize("asked", [pytest.param(f"{CORES[-1]};{CORES[0]}", marks=needs_ranks)])
def test_each_rank_stands_where_it_was_asked_to(tmp_path: Path, asked: str) -> None:
    results = run(tmp_path, asked, feeds="emulated")
    assert [set(result["allowed"]) for result in results] == [{str(CORES[-1])}, {str(CORES[0])}]
    assert {result["stood"]["asked"] for result in results} == {asked}


def test_a_rank_alone_is_left_where_it_is(tmp_path: Path) -> None:
    (result,) = run(tmp_path, "auto", num_ranks=1)
    assert set(result["allowed"]) == {format_cores(CORES)}
    assert result["stood"]["cores"] is None
    assert result["stood"]["reason"] == "alone on its host: it may use all cores"


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [pytest.param(2, marks=needs_ranks)])
def test_ranks_of_a_job_with_one_core_share_it(tmp_path: Path, one_core: int, num_ranks: int) -> None:
    for result in run(tmp_path, "auto", num_ranks=num_ranks):
        assert set(result["allowed"]) == {str(one_core)}
        assert result["stood"]["reason"] == "2 ranks share 1 core: left to the kernel"


def test_cores_that_this_host_does_not_have_are_refused_before_a_rank_starts(tmp_path: Path) -> None:
    with pytest.raises(CoresError, match="may not be used here") as caught:
        run(tmp_path / "run", f"{CORES[-1]},{CORES[-1] + 500}", num_ranks=1)
    assert caught.value.exit_status == 2
    assert not (tmp_path / "run").exists()
