"""Where reader threads stand: the setting, and where they were seen.  Of ranks launching/placing.py tells.

    auto       threads that feed a GPU: the cores of its NUMA node.  Those that feed host memory with what comes over
               the network as it is: the cores at the network card.  Else, and where that is all cores: as they are.
    0-7        these cores

Encoded images are left to all cores: decoding them takes more of these than reading does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from ..loaders.engines.reader_threads import reader_thread_ids
from ..loaders.nearness import Near, near_device, where_threads_stand
from ..loaders.network_card import near_network
from ..loaders.remote import RemotePath, ShardPath
from ..loaders.shares import AUTO, OFF, check_asked
from .launching.placing import Placing, choose


def _as_text(value: object) -> object:
    """One core, which TOML takes for a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Placement = Annotated[str, BeforeValidator(_as_text), AfterValidator(check_asked)]


class ReadersSeen:
    """Where reader threads were seen to stand while they ran: the most at once on each set of cores.

    Those `besides` are other loaders' of this process.
    """

    def __init__(self, *, besides: Iterable[int] = ()) -> None:
        self._besides = frozenset(besides)
        self._most: Counter[str] = Counter()

    def look(self) -> None:
        """Ask the kernel about those that run now."""
        self._most |= Counter(where_threads_stand(set(reader_thread_ids()) - self._besides))

    def told(self) -> dict[str, int]:
        """Cores as `0-3,8`, and how many threads; empty where none was seen."""
        return dict(sorted(self._most.items()))


def near_readers(asked: str, *, gpu: str | None, sample: ShardPath, encoded: bool) -> Near:
    """The cores for threads that read files like `sample` into a GPU (None: host memory).

    Raises CoresError for cores that may not be used.
    """
    if asked not in (AUTO, OFF):
        return choose(Placing(asked), local_rank=0, local_size=1)
    if gpu is not None or asked == OFF:
        return near_device(gpu or "the host", wanted=asked == AUTO)
    if encoded:
        return Near(frozenset(), None, "images are decoded, which takes all cores")
    return near_network(sample.url if isinstance(sample, RemotePath) else sample)
