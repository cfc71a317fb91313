"""What a point is called: by what tells it from its neighbours, in as few words as that takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .quantities import binary_size, counted
from .wording import HOP_WORDS, ranks_of, source_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .record import Point

OUTCOMES = ("stage", "counted_steps", "version")  # parameters that tell no point from another
TELLING = {"model": "{}", "precision": "{}", "labels": "{} labels", "batch_size": "batch {}"}  # those that do at once


def point_label(point: Point) -> str:
    """A point in a few words, by what tells it from its neighbours."""
    params = point.params
    if "access" in params:
        return ", ".join(_storage_words(params))
    if "nodes" in params and "gpus_per_node" in params:
        return f"{params['nodes']}\N{MULTIPLICATION SIGN}{params['gpus_per_node']}, {source_of(point)}"
    words = _hop_words(point) or _road_words(params)
    if words:
        return words
    if "source" in params:
        ranks = params.get("num_ranks")
        return f"{counted(ranks, 'rank')}, {params['source']}" if isinstance(ranks, int) else str(params["source"])
    told = (f"{name.replace('_', ' ')} {value}" for name, value in params.items() if name not in ("stage", "bytes"))
    return ", ".join(told) or "the run"


def differing_label(point: Point, points: Sequence[Point]) -> str:
    """A point's engine, and those of its parameters that differ among these points."""
    if "label" in point.params and "heat" in point.params:  # a contest has named its own
        heats = {str(other.params.get("heat")) for other in points}
        return f"{point.params['heat']}: {point.params['label']}" if len(heats) > 1 else str(point.params["label"])
    words = [point_label(point) if "road" in point.params else str(point.params.get("engine", "the run"))]
    named = ("stage", "engine", "road", "version")
    for name, value in point.params.items():
        if name not in named and len({str(other.params.get(name)) for other in points}) > 1:
            words.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(words)


def labels_of(points: Sequence[Point]) -> list[str]:
    """A label for each point; those of one label are told apart by as few of their parameters as that takes."""
    labels = [point_label(point) for point in points]
    alike: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        alike.setdefault(label, []).append(place)
    for places in alike.values():
        for place, words in zip(places, _apart([points[place] for place in places]), strict=True):
            labels[place] = ", ".join([labels[place], *words])
    return labels


def _hop_words(point: Point) -> str:
    """A hop of a copy, or a rung of the ladder between memory and storage."""
    params = point.params
    if params.get("stage") == "hop":
        return f"{counted(ranks_of(point), 'rank')}, {HOP_WORDS.get(str(params.get('hop')), str(params.get('hop')))}"
    return f"hop {params['hop']}, {params.get('source')} to {params.get('target')}" if "hop" in params else ""


def _road_words(params: Mapping[str, Any]) -> str:
    """A loader, by its name or by how it was set."""
    if "beside" in params:
        return "alone" if params["beside"] == "nothing" else f"beside {params['beside']}"
    if params.get("stage") == "metadata":
        return f"{params.get('files')} files, {params.get('page_cache') or 'as found'}"
    if "road" in params:
        return f"{params['road']}, {params.get('engine', 'not installed')}"
    if "engine" in params and "batch_size" in params and "source" not in params:
        return f"{params['engine']}, shuffle {params.get('shuffle')}, {params.get('num_workers')} workers"
    return ""


def _storage_words(params: Mapping[str, Any]) -> list[str]:
    words = [f"{params['access']} write" if params.get("operation") == "write" else str(params["access"])]
    if isinstance(threads := params.get("threads"), int):
        words.append(counted(threads, "thread"))
    if params.get("queue_depth") is not None:
        words.append(f"depth {params['queue_depth']}")
    if isinstance(block := params.get("block_size_bytes"), int):
        words.append(binary_size(block))
    if params.get("page_cache") == "warm":
        words.append("warm")
    if params.get("destination") == "gpu":
        words.append(f"{params.get('engine')} into the GPU")
    return words


def _apart(points: Sequence[Point]) -> list[list[str]]:
    """For each point the words that it takes to tell it from the others: models first, sizes before times."""
    found: list[list[str]] = [[] for _ in points]
    names = dict.fromkeys((*TELLING, *(name for point in points for name in point.params)))
    for name in (name for name in names if name not in OUTCOMES):
        if len(set(map(tuple, found))) == len(points):
            break
        values = [str(point.params.get(name, "")) for point in points]
        if len(set(values)) > 1:
            for words, value in zip(found, values, strict=True):
                words.append(TELLING.get(name, f"{name.replace('_', ' ')} {{}}").replace("{}", value))
    return found
