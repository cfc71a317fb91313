"""Engines by name: which reader serves a set of files or of objects on servers, and why.

    files      buffered (auto), direct, mmap, kvikio
    objects    kvikio (auto, where it and a CUDA driver are there), remote (auto elsewhere, and for encoded images)

A new engine is a Reader (`readers.py`) in a module of its own, and one line here.
"""

from __future__ import annotations

import errno
from typing import ClassVar, Literal, get_args

from ..formats.records import ShardIndex
from ..remote import RemotePath, ShardPath
from .mapped import MappedReader
from .readers import BufferedReader, DirectReader, DirectRefusedError, Reader, direct_refused

EngineName = Literal["auto", "buffered", "direct", "mmap", "kvikio", "remote"]


class EngineError(ValueError):
    """An engine that is not known, or does not read what the shards are: files, or objects on servers."""

    exit_status: ClassVar[int] = 2


def refuse_engine(engine: str, index: ShardIndex) -> None:
    """Raise EngineError where `engine` does not read such samples: encoded images, or a file each."""
    name = index.stamps[0].name
    if engine == "kvikio" and index.layout.codec is not None:
        raise EngineError(
            f"{name}: encoded images ({index.layout.codec}), which decoders parse in host memory, and engine kvikio "
            f"brings raw pixels to GPU memory; use auto, or write the images raw with `iobench convert SRC DST "
            f"--format tensors`"
        )
    if engine in ("mmap", "kvikio") and index.extents is not None and index.extents.files:
        raise EngineError(
            f"{name}: a folder of images, each a file of its own, and engine {engine} wants large ones; use buffered "
            f"or direct, or write shards with `iobench convert SRC DST --format tfrecord-jpeg`"
        )


def open_reader(
    engine: str, sample: ShardPath, *, evict_behind: bool = False, encoded: bool = False, into_device: bool = False
) -> tuple[Reader, str]:
    """The reader for an engine's name, and the reason where `auto` had a choice (for the record).

    `auto` is the page cache's reader on the CPU: later epochs then come from memory.  `direct` is tried on `sample`, a
    non-empty file of the data set, and refused with an error where the file system does not do it.  Objects are read
    by `kvikio` or `remote`, which tell nobody to keep anything: `evict_behind` means nothing for them.  `encoded`
    samples are for host memory, so that `auto` reads objects with `remote`.  `into_device`: kvikio reads into memory of
    a device, on whose terms; the others fill host memory, from where batches are copied.
    """
    if isinstance(sample, RemotePath):
        return _open_remote_reader(engine, sample, encoded=encoded, into_device=into_device)
    if engine == "remote":
        raise EngineError(f"engine remote reads objects on servers, and {sample} is a file; use --engine auto")
    if engine == "auto":
        return BufferedReader(evict_behind=evict_behind), "auto: buffered, whose pages later epochs find in memory"
    if engine == "buffered":
        return BufferedReader(evict_behind=evict_behind), "asked for"
    if engine == "direct":
        if reason := direct_refused(sample):
            raise DirectRefusedError(errno.EINVAL, f"{reason}; use --engine buffered or auto", str(sample))
        return DirectReader(), "asked for"
    if engine == "mmap":
        return MappedReader(evict_behind=evict_behind), "asked for"
    if engine == "kvikio":
        from .kvikio_reader import KvikioReader

        kvikio = KvikioReader(evict_behind=evict_behind, into_device=into_device)
        return kvikio, kvikio.reason
    raise _unknown(engine)


def _open_remote_reader(engine: str, sample: RemotePath, *, encoded: bool, into_device: bool) -> tuple[Reader, str]:
    """The reader of objects: `auto` takes kvikio only where there is a GPU that it could serve."""
    from .kvikio_probe import probe_kvikio
    from .remote_reader import RemoteReader

    if engine == "remote":
        return RemoteReader(), "asked for"
    if engine == "kvikio":
        from .kvikio_reader import KvikioReader

        kvikio = KvikioReader(into_device=into_device)
        return kvikio, kvikio.reason
    if engine != "auto":
        if engine not in get_args(EngineName):
            raise _unknown(engine)
        raise EngineError(
            f"{sample}: engine {engine} reads files, and this is an object on a server; use auto, remote or kvikio"
        )
    if encoded:
        return RemoteReader(), "auto: remote, because encoded images are decoded in host memory"
    found = probe_kvikio()
    why = found.missing or (f"cuInit answers {found.cuda_error}" if found.cuda_error else None)
    if why is None:
        reader, _ = _open_remote_reader("kvikio", sample, encoded=False, into_device=into_device)
        return reader, "auto: kvikio, because it and a CUDA driver are here"
    return RemoteReader(), f"auto: remote, because kvikio is not to be used here ({why})"


def _unknown(engine: str) -> EngineError:
    return EngineError(f"engine {engine!r} is not one of {', '.join(get_args(EngineName))}")
