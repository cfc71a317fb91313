"""stdout and stderr as they may be found: closed, full, or a pipe that nobody reads any more.

stderr carries what a person may look at: a measurement goes on without it (terminal.py).  stdout carries the one
document that was asked for: where it cannot be written, that is an error of the environment, never a status that says
something of a requirement.
"""

from __future__ import annotations

import os
import sys

from ..terminal import forget
from .options import ENVIRONMENT


class StdoutError(OSError):
    """What was to be written to stdout could not be."""

    exit_status = ENVIRONMENT


def open_closed() -> None:
    """Put /dev/null where a standard stream is closed: the next file that is opened would take its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8"))


def give(content: str | bytes) -> None:
    """Write to stdout, all of it and at once; raises StdoutError."""
    try:
        if isinstance(content, bytes):
            sys.stdout.buffer.write(content)
        else:
            sys.stdout.write(content)
        sys.stdout.flush()
    except BrokenPipeError as error:
        forget(sys.stdout)
        raise StdoutError("stdout: who read it has closed it before all of it was written") from error
    except OSError as error:
        forget(sys.stdout)
        raise StdoutError(f"stdout: {error.strerror}; send it to another place") from error
