"""What an error means to who gave the command: an exit status, and a message with the file and the way out."""

from __future__ import annotations

import errno

from .options import ENVIRONMENT, USAGE

WAYS_OUT = {
    errno.EACCES: "; this user may not read or write it: take its permissions up with its owner, or name another place",
    errno.EROFS: "; the file system is mounted for reading: name another place to write to",
    errno.ENOSPC: "; make room there, or name another place to write to",
    errno.EIO: "; the storage failed: see the kernel's log (dmesg) of this host, and of the server where there is one",
}


def status_of(error: Exception) -> tuple[int | None, str]:
    """The exit status an error carries, and its message; None for one that nobody foresaw.

    What the system says of a file is followed by what can be done about it; errors of this program's own say it.
    """
    if hasattr(error, "format_message"):  # what typer raises for wrong usage
        return USAGE, f"{error.format_message()} (iobench --help)"
    status = getattr(error, "exit_status", None)
    if not isinstance(error, OSError):
        return status, str(error)
    if error.filename is None or error.strerror is None:
        return status or ENVIRONMENT, str(error)
    way_out = WAYS_OUT.get(error.errno or 0, "") if status is None else ""
    return status or ENVIRONMENT, f"{error.filename}: {error.strerror}{way_out}"
