"""Shards of opaque samples: their pieces, made some way ahead, go out in order between their frames.

    units of about 4 MiB: (sample, piece), (sample, piece) ...     threads
    head | piece | piece | tail | head ...                         caller: checksums, and one aligned buffer of two

A piece may end anywhere, so that bytes are moved once into buffers that O_DIRECT takes (record_stream.py).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from threading import Event
from typing import NamedTuple

import numpy as np

from .dataset import GenerateSamples, ShardFile
from .folder import Progress
from .pixels import sample_label
from .record_stream import CHUNK_BYTES, Bytes, made_ahead, write_record_shards
from .sample_forms import NpzSampleFile, SampleForm, TFRecordSample
from .samples import piece_bytes, piece_lengths, sample_sizes


class _Piece(NamedTuple):
    """Piece `number` of a sample."""

    sample: int
    number: int
    length: int


def data_bytes(config: GenerateSamples) -> int:
    """What all shards take."""
    sizes = sample_sizes(config)
    if not config.sample_bytes_sd:
        return config.num_images * (int(sizes[0]) + _frame_bytes(config.format, int(sizes[0])))
    values, counts = np.unique(sizes, return_counts=True)
    frames = (_frame_bytes(config.format, int(size)) * int(count) for size, count in zip(values, counts, strict=True))
    return int(sizes.sum()) + sum(frames)


def write_sample_shards(
    folder: Path, config: GenerateSamples, made: list[Path], progress: Progress | None, num_threads: int
) -> Iterator[ShardFile]:
    """Write all shards under their temporary names, which are added to `made`."""
    with closing(_made_ahead(config, num_threads)) as pieces:
        yield from write_record_shards(
            folder,
            (_sample(config, index, pieces) for index in range(config.num_images)),
            num_records=config.num_images,
            records_per_shard=config.images_per_shard,
            suffix=f".{config.format}",
            total_bytes=data_bytes(config),
            made=made,
            progress=progress,
        )


def _sample(config: GenerateSamples, index: int, pieces: Iterator[Bytes]) -> Iterator[Bytes]:
    """All that is written of one sample, in order."""
    size = int(sample_sizes(config)[index])
    form = _form(config, index, size)
    yield np.frombuffer(form.head, np.uint8)
    for _ in piece_lengths(size):
        piece = next(pieces)
        form.update(piece)
        yield piece
    yield np.frombuffer(form.tail(), np.uint8)


def _form(config: GenerateSamples, index: int, size: int) -> SampleForm:
    return NpzSampleFile(size, sample_label(config.seed, index)) if config.format == "npz" else TFRecordSample(size)


@lru_cache(maxsize=4096)
def _frame_bytes(kind: str, size: int) -> int:
    form = NpzSampleFile(size, 0) if kind == "npz" else TFRecordSample(size)
    return len(form.head) + form.tail_bytes


def _made_ahead(config: GenerateSamples, num_threads: int) -> Generator[Bytes]:
    """Every piece of every sample in order, made some units ahead."""
    stop = Event()
    units = made_ahead(
        lambda unit: _make(config.seed, unit, stop), _units(config), num_threads=num_threads, num_ahead=2, name="fill"
    )
    with closing(units):
        try:
            for unit in units:
                yield from unit
        finally:
            stop.set()


def _units(config: GenerateSamples) -> Iterator[list[_Piece]]:
    """Pieces that one thread makes at a time."""
    unit: list[_Piece] = []
    room = CHUNK_BYTES
    for index, size in enumerate(sample_sizes(config).tolist()):
        for number, length in enumerate(piece_lengths(size)):
            unit.append(_Piece(index, number, length))
            room -= length
            if room <= 0:
                yield unit
                unit, room = [], CHUNK_BYTES
    if unit:
        yield unit


def _make(seed: int, unit: list[_Piece], stop: Event) -> list[Bytes]:
    return [piece_bytes(seed, *piece) for piece in unit if not stop.is_set()]
