"""Loaders: shards on disk to batches in memory, without a copy, with proof of the way the bytes took.

    from iobench.loaders import DataLoader, ShardSet, StallMeter

The names are resolved on first use, so that importing this room alone does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batches import PlannedBatches
    from .dataloader import DataLoader
    from .formats.fields import Fields
    from .frameworks import prepare
    from .probe import Suggestion, suggest
    from .shards import ShardSet
    from .stall import StallMeter

__all__ = ["DataLoader", "Fields", "PlannedBatches", "ShardSet", "StallMeter", "Suggestion", "prepare", "suggest"]

_HOMES = {
    "DataLoader": "dataloader",
    "Fields": "formats.fields",
    "PlannedBatches": "batches",
    "ShardSet": "shards",
    "StallMeter": "stall",
    "Suggestion": "probe",
    "prepare": "frameworks",
    "suggest": "probe",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
