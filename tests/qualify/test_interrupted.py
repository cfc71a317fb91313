"""A qualification that is cut short: what was measured is kept, and what was not says why."""

import pytest

from iobench.qualify import QualifyConfig, qualify
from iobench.storage_bench import feeding
from iobench.storage_bench.launching.launch import horovod_available
from iobench.storage_bench.sweep import calibration, run
from iobench.storage_bench.sweep.drive import Timing

SETTINGS = {
    "accelerator": "0.05",
    "batch_size": 4,
    "max_ranks": 2,
    "measure_seconds": 10,
    "storage": {"seconds": 0.05, "blocks": 4},
}

pytestmark = pytest.mark.horovod


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured before and beside the blocks is short, too."""
    monkeypatch.setattr(feeding, "PILOT_S", 0.05)
    monkeypatch.setattr(run, "BACKGROUND_S", 0.02)
    monkeypatch.setattr(calibration, "TIMING", Timing(0.01, 0.03))
    monkeypatch.setattr(calibration, "CALIBRATION_BYTES", 4 << 20)


def cut_short(page_set, at, error, **more):
    """The records that are kept where `error` comes as soon as `at(part, share)` is true."""
    if reason := horovod_available():
        pytest.skip(reason)
    kept = []

    def show(part: str, share: float, _detail: str) -> None:
        if at(part, share):
            raise error

    with pytest.raises(type(error)):
        qualify(
            page_set.folder,
            QualifyConfig.model_validate({**SETTINGS, **more}),
            local=page_set.folder.parent / "local",
            preset=None,
            command=("iobench", "qualify"),
            show=show,
            keep=kept.append,
        )
    return kept


@pytest.mark.parametrize(
    ("error", "said"),
    [(KeyboardInterrupt(), "interrupted"), (OSError(5, "Input/output error"), "[Errno 5] Input/output error")],
)
def test_finished_parts_keep_their_figures_and_the_rest_is_null_with_the_reason(page_set, error, said):
    (record,) = cut_short(page_set, lambda part, _: part.startswith("load"), error)
    assert record.verdict is None
    assert record.workload["failed"] == said
    assert record.warnings[0] == f"stopped before its end: {said}"
    assert {point.params["stage"] for point in record.points} == {"storage"}
    assert record.metrics["read_gbps"].n == 4
    assert record.metrics["gpus_fed_predicted"].n == 4
    for name in ("gpus_fed_measured", "au_mlperf", "stage_time_s", "break_even_epochs", "cpu_seconds_per_gb"):
        assert record.metrics[name].value is None
        assert said in record.metrics[name].reason


def test_the_blocks_of_a_part_that_was_under_way_are_kept(page_set):
    (record,) = cut_short(page_set, lambda part, share: part == "storage" and share >= 0.6, KeyboardInterrupt())
    rates = [point.metrics["read_gbps"] for point in record.points]
    assert rates
    assert all(1 <= rate.n < 4 for rate in rates)
    assert all(point.read_path.page_cache == "cold" for point in record.points)
    assert record.metrics["gpus_fed_predicted"].value is None  # which rests on all blocks


def test_before_the_first_block_there_is_nothing_to_keep(page_set):
    assert cut_short(page_set, lambda part, _: part == "storage", KeyboardInterrupt()) == []
