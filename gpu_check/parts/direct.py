"""Storage to the GPU past the page cache: our loader with O_DIRECT, beside the bare loop on warm files."""

from __future__ import annotations

from collections.abc import Iterator

from ..part import Bench, Findings
from .storage import compare


def run(bench: Bench) -> Iterator[Findings]:
    """Rates of the bare loop and of our loader with O_DIRECT; nothing is required of them."""
    return compare(bench, "direct", required=None)
