"""Shards of images of one size: threads fill 4 MiB buffers some way ahead, which are written in order."""

from __future__ import annotations

import math
import mmap
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import groupby
from pathlib import Path
from threading import Event
from typing import NamedTuple

from .dataset import Generate, ShardFile
from .folder import Progress, temporary
from .forms import ALIGNMENT_BYTES, Form, record_form
from .pixels import draw
from .shard_writer import ShardWriter

_CHUNK_BYTES = 4 << 20


def record_bytes(config: Generate) -> int:
    """Bytes of one record on disk, framing included; `num_images` times this is what a data set takes."""
    return len(record_form(config.format, config.shape).record)


class _Chunk(NamedTuple):
    """Records of one shard that are filled and written together."""

    shard: str
    first: int
    num_records: int


def write_image_shards(
    folder: Path, config: Generate, made: list[Path], progress: Progress | None, num_threads: int
) -> Iterator[ShardFile]:
    """Write all shards under their temporary names, which are added to `made`."""
    stride, done = record_bytes(config), 0
    with closing(_filled(config, num_threads)) as filled, ThreadPoolExecutor(1, "write") as pool:
        for name, parts in groupby(filled, key=lambda part: part[0].shard):
            made.append(temporary(folder, name))
            with ShardWriter(made[-1], pool) as writer:
                for chunk, buffer in parts:
                    writer.append(buffer, chunk.num_records * stride)
                    done += chunk.num_records * stride
                    if progress:
                        progress(done, config.num_images * stride)
                digest = writer.finish()
            num_bytes = writer.num_bytes
            yield ShardFile(name=name, num_images=num_bytes // stride, bytes=num_bytes, xxh3_128=digest)


def _chunks(config: Generate, chunk_records: int) -> Iterator[_Chunk]:
    num_shards = -(-config.num_images // config.images_per_shard)
    for shard in range(num_shards):
        name = f"train-{shard:05d}-of-{num_shards:05d}.{config.format}"
        stop = min((shard + 1) * config.images_per_shard, config.num_images)
        for first in range(shard * config.images_per_shard, stop, chunk_records):
            yield _Chunk(name, first, min(chunk_records, stop - first))


def _filled(config: Generate, num_threads: int) -> Generator[tuple[_Chunk, memoryview]]:
    """All chunks in order, each with the aligned buffer that holds it until the one after next is asked for."""
    form, stride, stop = record_form(config.format, config.shape), record_bytes(config), Event()
    whole = ALIGNMENT_BYTES // math.gcd(stride, ALIGNMENT_BYTES)  # so many records end on an aligned byte
    wanted = min(_CHUNK_BYTES // stride, min(config.images_per_shard, config.num_images) + whole - 1)
    chunk_records = max(wanted // whole, 1) * whole
    chunks = _chunks(config, chunk_records)
    free = [_buffer(form, chunk_records) for _ in range(num_threads + 3)]
    pending: deque[tuple[_Chunk, memoryview, Future[None]]] = deque()
    handed_out: list[memoryview] = []
    pool = ThreadPoolExecutor(num_threads, "fill")
    try:
        while True:
            while free and (chunk := next(chunks, None)):
                buffer = free.pop()
                pending.append((chunk, buffer, pool.submit(_fill, buffer, form, config, chunk, stop)))
            if not pending:
                return
            chunk, buffer, future = pending.popleft()
            future.result()
            yield chunk, buffer
            free += handed_out
            handed_out = [buffer]
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _buffer(form: Form, num_records: int) -> memoryview:
    """Page-aligned memory for `num_records`, with all that is the same in every record in place."""
    stride = len(form.record)
    buffer = memoryview(mmap.mmap(-1, -(-num_records * stride // ALIGNMENT_BYTES) * ALIGNMENT_BYTES))
    for start in range(0, num_records * stride, stride):
        buffer[start : start + stride] = form.record
    return buffer


def _fill(buffer: memoryview, form: Form, config: Generate, chunk: _Chunk, stop: Event) -> None:
    stride = len(form.record)
    for i in range(chunk.num_records):
        if stop.is_set():
            return
        image, label = draw(config.seed, chunk.first + i, config.shape)
        form.fill(buffer[i * stride : (i + 1) * stride], image, label, seed=config.seed, index=chunk.first + i)
