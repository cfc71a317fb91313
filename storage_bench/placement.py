"""Where reader threads of one process stand, as a setting: auto, off, or cores.  Of ranks: launching/placing.py."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from ..loaders.nearness import Near, near_device
from ..loaders.shares import AUTO, OFF, check_asked
from .launching.placing import Placing, choose

Placement = Annotated[str, AfterValidator(check_asked)]


def near_readers(asked: str, device: str) -> Near:
    """The cores for threads that feed the device which torch names so, or "the host"; CoresError for none to use."""
    if asked in (AUTO, OFF):
        return near_device(device, wanted=asked == AUTO)
    return choose(Placing(asked), local_rank=0, local_size=1)
