"""A second witness of the way that bytes took, which the loader's own evidence does not ask.

    /proc/self/io, rchar            what read calls of this process returned, from page cache or device, into the host's
                                    memory; reads that a GPU makes itself are none of them     proc_pid_io(5)
    /proc/driver/nvidia-fs/stats    what the module read into GPU memory

Bytes that read calls returned and that then are on a GPU have bounced; those that nvidia-fs moved have not.  Where
neither saw them (peer-to-peer DMA, WEKA) this witness says nothing, and nobody is held to its word.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..loaders.counters.nvidia_fs import RESOLUTION_BYTES, nvidia_fs_counter
from ..results.record import Metric, not_measured

MOST = 0.9  # of the bytes: reads under way at either end are counted by one and not yet by the other
UNIT = "true"


@dataclass(frozen=True, slots=True)
class Seen:
    """How far both counts were; None where the system does not count."""

    called_bytes: int | None
    direct_bytes: int | None


def look(io: Path = Path("/proc/self/io")) -> Seen:
    """Both counts, now."""
    return Seen(_called(io), nvidia_fs_counter().read_bytes())


def route_between(before: Seen, after: Seen, *, delivered_bytes: int, into_gpu: bool) -> tuple[str | None, str]:
    """The route of `delivered_bytes` between two looks, None where they do not show it, and the words for it."""
    called = _moved(before.called_bytes, after.called_bytes)
    direct = _moved(before.direct_bytes, after.direct_bytes)
    words = f"of {delivered_bytes} bytes read calls returned {_told(called)}, and nvidia-fs moved {_told(direct)}"
    if called is None or not delivered_bytes:
        return None, words
    by_calls = called >= MOST * delivered_bytes
    by_itself = direct is not None and direct + RESOLUTION_BYTES >= MOST * delivered_bytes > RESOLUTION_BYTES
    if by_calls == by_itself:
        return None, words
    return "gds" if by_itself else "bounce" if into_gpu else "host", words


def named_truly(observed: str, seen: tuple[str | None, str]) -> Metric:
    """1 where both name the same route, 0 where they name two; null, with the reason, where one of them names none."""
    route, words = seen
    if route is None or observed == "unknown":
        who = "the evidence names no route" if observed == "unknown" else "the witness sees no route"
        return not_measured(UNIT, f"{who}: {words}")
    return Metric(value=float(route == observed), unit=UNIT, n=1, reason=f"named {observed}; {words}")


def _called(io: Path) -> int | None:
    try:
        lines = io.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("rchar:")), None)


def _moved(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _told(count: int | None) -> str:
    return "nobody knows how many" if count is None else str(count)
