"""Shards of opaque samples: threads make their pieces some way ahead, and they go out in order between their frames.

    units of about 4 MiB: (sample, piece), (sample, piece) ...     threads
    head | piece | piece | tail | head ...                         caller: checksums, and one aligned buffer of two

A piece may end anywhere, so that bytes are moved once into buffers that O_DIRECT takes.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from threading import Event
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .dataset import GenerateSamples, ShardFile
from .folder import Progress, temporary
from .pixels import sample_label
from .sample_forms import NpzSampleFile, SampleForm, TFRecordSample
from .samples import piece_bytes, piece_lengths, sample_sizes
from .shard_writer import ShardWriter

_CHUNK_BYTES = 4 << 20


class _Piece(NamedTuple):
    """Piece `number` of a sample."""

    sample: int
    number: int
    length: int


Bytes = NDArray[np.uint8]


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
    done, total = 0, data_bytes(config)
    num_shards = -(-config.num_images // config.images_per_shard)
    with closing(_made_ahead(config, num_threads)) as pieces, ThreadPoolExecutor(1, "write") as pool:
        for shard in range(num_shards):
            name = f"train-{shard:05d}-of-{num_shards:05d}.{config.format}"
            first, stop = shard * config.images_per_shard, min((shard + 1) * config.images_per_shard, config.num_images)
            made.append(temporary(folder, name))
            with ShardWriter(made[-1], pool) as writer:
                stream = RecordStream(writer)
                for index in range(first, stop):
                    for data in _sample(config, index, pieces):
                        done += stream.write(data)
                        if progress:
                            progress(done, total)
                stream.flush()
                digest = writer.finish()
            yield ShardFile(name=name, num_images=stop - first, bytes=writer.num_bytes, xxh3_128=digest)


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
    units, stop = _units(config), Event()
    pending: deque[Future[list[Bytes]]] = deque()
    pool = ThreadPoolExecutor(num_threads, "fill")
    try:
        while True:
            while len(pending) < num_threads + 2 and (unit := next(units, None)):
                pending.append(pool.submit(_make, config.seed, unit, stop))
            if not pending:
                return
            yield from pending.popleft().result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _units(config: GenerateSamples) -> Iterator[list[_Piece]]:
    """Pieces that one thread makes at a time."""
    unit: list[_Piece] = []
    room = _CHUNK_BYTES
    for index, size in enumerate(sample_sizes(config).tolist()):
        for number, length in enumerate(piece_lengths(size)):
            unit.append(_Piece(index, number, length))
            room -= length
            if room <= 0:
                yield unit
                unit, room = [], _CHUNK_BYTES
    if unit:
        yield unit


def _make(seed: int, unit: list[_Piece], stop: Event) -> list[Bytes]:
    return [piece_bytes(seed, *piece) for piece in unit if not stop.is_set()]


class RecordStream:
    """Bytes of any number, one behind the other, handed to a writer in page-aligned buffers; two take turns."""

    def __init__(self, writer: ShardWriter) -> None:
        self._writer = writer
        self._buffers = deque(np.frombuffer(mmap.mmap(-1, _CHUNK_BYTES), np.uint8) for _ in range(2))
        self._used = 0

    def write(self, data: Bytes) -> int:
        """Append `data`; returns its length."""
        done = 0
        while done < len(data):
            count = min(len(data) - done, _CHUNK_BYTES - self._used)
            self._buffers[0][self._used : self._used + count] = data[done : done + count]
            self._used += count
            done += count
            if self._used == _CHUNK_BYTES:
                self.flush()
        return done

    def flush(self) -> None:
        """Hand on what there is; only the last time may that be less than a whole buffer."""
        if self._used:
            self._writer.append(self._buffers[0].data, self._used)
            self._buffers.rotate()
            self._used = 0
