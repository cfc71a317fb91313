"""Storage to the GPU with kvikio: cuFile into GPU memory by whatever way there is, beside the bare loop.

The route that was taken is in the point: `gds` only where nvidia-fs counted the bytes, else `bounce`.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..part import Bench, Findings
from .storage import compare


def run(bench: Bench) -> Iterator[Findings]:
    """Rates of the bare loop and of our loader with kvikio; nothing is required of them."""
    return compare(bench, "kvikio", required=None)
