"""The local copy: timed and verified, hop by hop, the baseline that reading in place has to beat.

    SRC (folder, s3:// prefix, one object) -> hop -> ... -> DST           `chain`, each hop a whole, verified copy

    shard -> cold reads, 8 MiB each -> digest on the way -> temporary name -> fdatasync -> rename      `hop`, `copying`
    then, timed apart: evict, read back, compare digests

What an interrupted copy has finished is kept, by the digests of dataset.json or of the copy's own ledger, and read back
before it is trusted; a shard that was under way begins again.
"""

from __future__ import annotations

from .chain import ChainResult, stage_chain
from .hop import StageResult, stage, stage_point
from .place import StagingError, StagingUsageError, on_same_device, remove_stage, require_folder, room_for

__all__ = [
    "ChainResult",
    "StageResult",
    "StagingError",
    "StagingUsageError",
    "on_same_device",
    "remove_stage",
    "require_folder",
    "room_for",
    "stage",
    "stage_chain",
    "stage_point",
]
