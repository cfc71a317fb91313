from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from iobench.storage_bench.launching.launch import LaunchError, horovod_available, launch_ranks
from iobench.storage_bench.launching.ranks import RanksError, open_ranks

PROGRAMS = Path(__file__).parents[1] / "programs"
MISSING = horovod_available()
needs_horovod = pytest.mark.skipif(MISSING is not None, reason=f"Horovod: {MISSING}")


def run(program: str, config: dict[str, Any], *, num_ranks: int, folder: Path) -> list[dict[str, Any]]:
    environment = {"PYTHONPATH": str(PROGRAMS)}
    return launch_ranks(program, config, num_ranks=num_ranks, folder=folder, timeout_s=60, environment=environment)


def test_one_process_alone_is_through_every_meeting_at_once(tmp_path: Path) -> None:
    ranks = open_ranks(expected_size=1, progress=tmp_path / "progress.jsonl")
    assert (ranks.rank, ranks.size, ranks.local_rank, ranks.backend) == (0, 1, 0, "single")
    ranks.barrier()
    ranks.meet(1)
    assert ranks.any_true(True, 1) is True
    assert ranks.any_true(False, 1) is False
    assert ranks.gather({"a": (1, 2)}) == [{"a": [1, 2]}]
    ranks.report({"step": 1})
    ranks.report({"step": 2})
    ranks.close()
    assert (tmp_path / "progress.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


def test_one_process_alone_does_not_pretend_to_meet_others() -> None:
    with pytest.raises(RanksError, match="2 ranks cannot meet"):
        open_ranks(expected_size=1).meet(2)


def test_a_process_that_horovod_did_not_start_is_not_one_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RanksError, match="2 ranks were asked for, this process is one of 1; start ranks") as caught:
        open_ranks(expected_size=2)
    assert caught.value.exit_status == 4
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(RanksError, match="torchrun does not start Horovod ranks"):
        open_ranks(expected_size=2)


@pytest.mark.parametrize(("expected", "started"), [(2, 3), (3, 2), (1, 2)])
def test_another_number_of_ranks_than_asked_for_is_refused(
    expected: int, started: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOROVOD_RANK", "0")
    monkeypatch.setenv("HOROVOD_SIZE", str(started))
    with pytest.raises(RanksError, match=f"{expected} ranks were asked for, this process is one of {started}"):
        open_ranks(expected_size=expected)


@needs_horovod
@pytest.mark.horovod
def test_every_rank_of_a_meeting_learns_the_same_and_others_are_left_out(tmp_path: Path) -> None:
    draw = random.Random(7)
    meetings = [[count, [draw.random() < 0.3 for _ in range(count)]] for count in (3, 1, 2, 4, 2, 4, 3, 1, 4, 4, 2, 2)]
    results = run("rank_meetings", {"meetings": meetings, "late_s": 0}, num_ranks=4, folder=tmp_path)
    for rank, result in enumerate(results):
        assert result["answers"] == [any(flags) if rank < count else None for count, flags in meetings]


@needs_horovod
@pytest.mark.horovod
def test_a_meeting_ends_after_its_last_rank_came_and_a_barrier_after_the_meeting(tmp_path: Path) -> None:
    meetings = [[2, [False, False]], [3, [False] * 3], [2, [False, False]]]
    results = run("rank_meetings", {"meetings": meetings, "late_s": 0.2}, num_ranks=3, folder=tmp_path)
    for number, (count, _) in enumerate(meetings):
        times = [result["times"][number] for result in results]
        last_came = max(came for came, _, _ in times[:count])
        assert all(ended > last_came for _, ended, _ in times[:count])
        assert min(passed for _, _, passed in times) > max(ended for _, ended, _ in times[:count])


@needs_horovod
@pytest.mark.horovod
def test_ranks_out_of_step_are_an_error_and_not_a_hang(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"\d of 3 ranks were to meet and 3 did") as caught:
        run("rank_out_of_step", {}, num_ranks=3, folder=tmp_path)
    assert caught.value.exit_status == 4
