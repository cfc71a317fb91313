"""What a run was told and where it ran, as pairs of words: a nested mapping read for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .quantities import amount, binary_size, number

MOST_ITEMS = 20  # of a list; the record has all of them
KEY_UNITS = {"s": "s", "us": "µs", "gbps": "GB/s"}
NAMED = {  # keys whose words, one by one, do not say it
    "num_by_host": "number left to the decoder of reader threads",
    "num_skipped": "number left out",
    "skipped": "left out",
}
SPELLED = {"au": "AU", "cpu": "CPU", "gpus": "GPUs", "os": "operating system", "num": "number of"}


def facts(mapping: Mapping[str, Any], *, prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as (name, text) pairs; what is not known says so."""
    pairs: list[tuple[str, str]] = []
    for key, value in mapping.items():
        name = f"{prefix}{head_of(key)}"
        if value is None and key.endswith("reason"):
            continue
        if isinstance(value, Mapping):
            pairs += facts(value, prefix=f"{name}, ")
        elif isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
            for index, item in enumerate(value):
                pairs += facts(item, prefix=f"{name} {index}, ")
        else:
            pairs.append(
                (name, "not installed" if value is None and prefix.startswith("versions") else fact_text(key, value))
            )
    return pairs


def head_of(name: str) -> str:
    """A key as the head of its values, its unit behind a comma; sizes carry theirs themselves."""
    if name in NAMED:
        return NAMED[name]
    words = name.removesuffix("_bytes").split("_")
    unit = KEY_UNITS.get(words[-1]) if len(words) > 1 else None
    text = " ".join(SPELLED.get(word, word) for word in (words[:-1] if unit else words))
    return f"{text}, {unit}" if unit else text


def fact_text(name: str, value: object) -> str:
    """A value under its key as people read it; what is not known says so."""
    if value is None or value == "":
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _figure(name, value)
    if isinstance(value, list | tuple):
        more = [f"and {len(value) - MOST_ITEMS} more"] if len(value) > MOST_ITEMS else []
        return ", ".join([*map(str, value[:MOST_ITEMS]), *more]) or "none"
    return str(value)


def _figure(name: str, value: float) -> str:
    """A bare number of the workload or the environment, as its key tells: a block size, bytes, or a number."""
    if name.startswith("block_size"):
        return binary_size(value)
    if name.endswith("bytes"):
        return amount(value, "bytes")
    return str(value) if isinstance(value, int) else number(value)
