"""What a file system does with names: rates of create, remove, stat, open, list and small reads in one large folder.

    PATH/.iobench-metadata-XXXX     filled with all files, gone afterwards
    for each state of the cache     warm: names just seen, answered from this client's memory; cold: forgotten before
      round r                       a time block of each operation -> a rate and a 99th percentile each

files.py      the folder, and the operations on it by several threads
memory.py     what this client remembers of names, and forgetting it
rounds.py     rounds of time blocks
recorded.py   the page: folder -> rounds -> points

That names were forgotten is shown by the device, where it is counted: a cold point for whose stats it read nothing is
marked `names_cached`, as warm ones are.
"""

from .config import OPERATIONS, MetadataConfig
from .recorded import MetadataResult, measure_metadata

__all__ = ["OPERATIONS", "MetadataConfig", "MetadataResult", "measure_metadata"]
