"""The command: one function per verb.  It loads configs, calls the bench, writes the record and says what it means.

Exit: 0 done or met, 1 requirement missed, 2 wrong usage or config, 3 measurement invalid, 4 data or environment error,
130 interrupted.  With --json stdout holds exactly one JSON document, errors included; everything else is on stderr.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from .. import __version__
from ..terminal import say
from . import convert, data, gpu, infer, jobs, qualification, reports, scale, staging, storage
from .failures import status_of
from .journal import print_json
from .options import DONE, ENVIRONMENT, INTERRUPTED, app
from .patience import GRACE_S, watch
from .streams import StdoutError, give, open_closed

if TYPE_CHECKING:
    from collections.abc import Sequence

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, a job's end, a terminal that was closed

__all__ = [
    "convert",
    "data",
    "gpu",
    "infer",
    "jobs",
    "main",
    "qualification",
    "reports",
    "run",
    "scale",
    "staging",
    "storage",
]


def main() -> NoReturn:
    """Run the command line and exit."""
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # the last of all: what is left is freeing memory
    open_closed()
    status = run(sys.argv[1:])
    with suppress(StdoutError):  # of a page of help there may be a rest
        give("")
    for number in ENDING:  # all is said and written
        signal.signal(number, lambda *_: os._exit(status))
    sys.exit(status)


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit status."""
    as_json = "--json" in arguments
    first = threading.Lock()  # whoever has it says the last word

    def fail(message: str, kind: str, status: int) -> int:
        return _fail(message, kind, status, as_json=as_json) if first.acquire(blocking=False) else status

    def end(message: str, kind: str, status: int) -> None:
        fail(message, kind, status)
        os._exit(status)

    for number in ENDING:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # under nohup it stays ignored
            signal.signal(number, _interrupt)
    try:
        if arguments[:1] != ["doctor"]:  # which waits for nobody
            watch(arguments[1:], end=end)
        status = int(app(list(arguments) or ["--help"], prog_name="iobench", standalone_mode=False) or DONE)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except SystemExit:  # typer's, of a pipe that was closed: a 1, which would say that a requirement was missed
        return fail("a pipe or a connection was closed at its other end", "BrokenPipeError", ENVIRONMENT)
    except Exception as error:
        known, message = status_of(error)
        if known is None:  # a mistake of this program: never 1, which says that a requirement was missed
            say(traceback.format_exc())
            known, message = ENVIRONMENT, f"internal error: {message or type(error).__name__}; please report it"
        return fail(message, type(error).__name__, known)
    if status == INTERRUPTED:  # typer, too, makes a status of an interrupt
        return fail("interrupted", "Interrupted", INTERRUPTED)
    return status


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        give(f"{__version__}\n")
        raise typer.Exit


def _fail(message: str, kind: str, status: int, *, as_json: bool) -> int:
    from ..loaders.remote import without_credentials

    message = without_credentials(message)
    if as_json:
        with suppress(StdoutError):  # it may be this that is told
            print_json({"error": {"type": kind, "message": message, "exit_status": status}})
    say(f"iobench: {message}")
    return status


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """The first of these signals unwinds; cleaning up has GRACE_S, further ones do not disturb it."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    watchdog = threading.Timer(GRACE_S, os._exit, (INTERRUPTED,))
    watchdog.daemon = True
    watchdog.start()
    raise KeyboardInterrupt
