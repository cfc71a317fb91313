"""Lets `python -m iobench.gpu_check` be the command `iobench gpu-check`."""

import sys

from ..cli import run

if __name__ == "__main__":
    sys.exit(run(["gpu-check", *sys.argv[1:]]))
