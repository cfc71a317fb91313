"""Sets of images in another format: between raw and JPEG TFRecords, tensor shards, WebDataset tars and image folders.

source.py -> samples.py -> forms.py    -> target.py                     run.py: threads, one part each
any set      pixels        a record's     a part, written and named     plan.py: what will be made; classes.py
             or bytes      bytes                                        ledger.py: what is whole; place.py: the folder
"""

from __future__ import annotations

from .ledger import Broken, Row
from .outcome import Converted
from .run import convert
from .settings import FORMATS, Convert, ConvertError, ConvertUsageError

__all__ = ["FORMATS", "Broken", "Convert", "ConvertError", "ConvertUsageError", "Converted", "Row", "convert"]
