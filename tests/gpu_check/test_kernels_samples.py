"""What the GPU check demands of samples made by one kernel: met by the kernel's own lines, missed by wrong ones."""

import os
import subprocess
import sys

import pytest

from iobench.gpu_check.parts.kernels_samples import SamplesWrongError, SampleWork, require_samples, sample_work

INTERPRETED = """
from iobench.gpu_check.parts.kernels_samples import SampleWork, require_samples, sample_work
from iobench.loaders.device_kernels import factors
from iobench.loaders.images.sample_kernel import write_batch

class InterpretedWork(SampleWork):
    def make(self):
        write_batch(self.pixels, self.cuts, *factors(self.transform.mean, self.transform.std, "cpu"), self.out)

work = sample_work("cpu", count=8, side=16)
require_samples(InterpretedWork(work.pixels, work.cuts, work.transform, work.out))
print("samples as on the CPU")
"""


class DarkerWork(SampleWork):
    """That of a device that halves what it makes."""

    def make(self):
        super().make()
        self.out.copy_(self.out // 2)


class FlatWork(SampleWork):
    """That of a device that normalises every batch to nothing; bytes it makes well."""

    def make(self):
        super().make()
        if self.out.is_floating_point():
            self.out.zero_()


@pytest.fixture
def work():
    return sample_work("cpu", count=4, side=32)


def test_the_twins_samples_are_what_is_demanded(work):
    work.out.fill_(7)
    require_samples(work)
    assert (work.out == 7).all(), "they are checked in a batch of their own"
    work.make()
    assert len(work.out.unique()) > 100, "what was checked is pictures, not one colour"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [(DarkerWork, "of the levels are off those of the CPU, by up to"), (FlatWork, "not normalised as")],
)
def test_wrong_samples_are_told(work, wrong, said):
    with pytest.raises(SamplesWrongError, match=said):
        require_samples(wrong(work.pixels, work.cuts, work.transform, work.out))


def test_the_kernels_own_lines_meet_it_in_tritons_interpreter(tmp_path):
    pytest.importorskip("triton", reason="Triton is not installed (`make setup-test` installs it)")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", INTERPRETED],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "samples as on the CPU"
