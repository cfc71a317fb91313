"""What a checkpoint takes, and what it and the readers of training data cost each other.

    PATH/.iobench-checkpoint-XXXX   one checkpoint at a time, gone afterwards
    round r, the two in a random order:
      beside nothing   write, fsync -> restore, compared;     then the readers by themselves for a while
      beside reads     write, fsync -> restore, compared, while readers read the data in PATH

files.py      one checkpoint: its bytes, writing and restoring them
readers.py    the readers beside it
rounds.py     rounds -> samples and counters
recorded.py   samples -> points of a record

A checkpoint is one sample of each of its rates; the pairs of a round give the ratios.
"""

from .config import CheckpointConfig
from .files import CheckpointError
from .recorded import CheckpointResult, measure_checkpoint

__all__ = ["CheckpointConfig", "CheckpointError", "CheckpointResult", "measure_checkpoint"]
