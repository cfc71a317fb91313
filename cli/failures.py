"""What an error means to who gave the command: an exit status, and a message with the file and the way out."""

from __future__ import annotations

import errno

from .options import ENVIRONMENT, USAGE

WAYS_OUT = {
    errno.ENOENT: "; give a path that exists; if it did, it was taken away meanwhile: use data that nobody changes",
    errno.ESTALE: "; the server has replaced or removed it meanwhile: use data that nobody changes",
    errno.ENOTCONN: "; the process behind this mount has ended: mount it again",
    errno.EDQUOT: "; the quota of this user is used up: make room there, or name another place to write to",
    errno.EMFILE: "; this process may not open more files: raise `ulimit -n`, or ask for fewer threads",
    errno.ENFILE: "; this host has no more files to open: see who holds them, or raise fs.file-max",
    errno.ENAMETOOLONG: "; file systems take names of at most 255 bytes and paths of 4095: give a shorter one",
    errno.ETIMEDOUT: "; the storage did not answer in time: see whether its server and the network work",
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
        return USAGE, f"{_in_short(error.format_message())} (iobench --help)"
    status = getattr(error, "exit_status", None)
    if not isinstance(error, OSError):  # of a rank's error it is the number that says the way out
        return status, str(error) + WAYS_OUT.get(getattr(error, "errno", None) or 0, "")
    if error.filename is None or error.strerror is None:
        return status or ENVIRONMENT, str(error)
    way_out = WAYS_OUT.get(error.errno or 0, "") if status is None else ""
    return status or ENVIRONMENT, f"{error.filename}: {error.strerror}{way_out}"


def _in_short(usage: str) -> str:
    """A pattern that the shell has put names for is a thousand words that nobody asked for: the first one is enough."""
    rule, _, words = usage.partition(" (")
    if not rule.startswith("Got unexpected extra argument"):
        return usage
    first, *others = words.removesuffix(")").split(" ")
    more = f" and {len(others)} more" if others else ""
    return f"unexpected argument {first}{more}; put patterns as 'data/*.tfrecord', and names with spaces, in quotes"
