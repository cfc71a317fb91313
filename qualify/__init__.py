"""The main job: `iobench qualify`.  `job.py` is its one page; the other files are the parts it puts in a row."""

from .history import add_history
from .job import qualify
from .settings import QualifyConfig

__all__ = ["QualifyConfig", "add_history", "qualify"]
