"""Sweeps of tests are short: so are what is measured before and beside them."""

import pytest

from iobench.storage_bench.sweep import calibration, run
from iobench.storage_bench.sweep.drive import Timing


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "BACKGROUND_S", 0.02)
    monkeypatch.setattr(calibration, "TIMING", Timing(0.01, 0.03))
    monkeypatch.setattr(calibration, "CALIBRATION_BYTES", 4 << 20)
