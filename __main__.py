"""What `iobench` and `python -m iobench` start.

The command takes a tenth of a second to import, and longer from a slow disk.  Ctrl-C in it ends as it does later.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
DOCUMENT = b'{"error": {"type": "Interrupted", "message": "interrupted", "exit_status": 130}}\n'


def main() -> NoReturn:
    """Import the command and run it."""
    signal.signal(signal.SIGINT, _end_at_once)
    from .cli import main as command

    command()


def _end_at_once(_number: int, _frame: FrameType | None) -> None:
    with suppress(OSError):
        if "--json" in sys.argv:
            os.write(1, DOCUMENT)
        os.write(2, b"iobench: interrupted\n")
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
