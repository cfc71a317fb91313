"""Which ways are open from the data's storage to the GPU, as the doctor sees them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from ...results.privacy import public_text
from ...storage_bench.doctor import examine
from ..part import Bench, Findings


def run(bench: Bench) -> Iterator[Findings]:
    """Ask the doctor, and name the routes that are open."""
    seen = examine(bench.raw)
    findings = [_public(asdict(finding)) for finding in seen.findings]
    routes = [_public(asdict(route)) for route in seen.routes]
    is_open = [route.name for route in seen.routes if route.available]
    closed = [route.name for route in seen.routes if not route.available]
    sentence = f"open: {', '.join(is_open) or 'none'}; not open: {', '.join(closed) or 'none'}"
    yield Findings(sentence=sentence, workload={"findings": findings, "routes": routes})


def _public(row: dict[str, object]) -> dict[str, object]:
    return {name: public_text(value) if isinstance(value, str) else value for name, value in row.items()}
