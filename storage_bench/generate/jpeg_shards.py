"""TFRecord shards of JPEG images, with the fields of TensorFlow's build_imagenet_data script.

    threads: image -> tf.Example -> framed record, some ahead      caller: records in order, through aligned buffers

Source of the fields: _convert_to_example in research/slim/datasets/build_imagenet_data.py of
https://github.com/tensorflow/models.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np

from ...loaders.formats.example import encode_example
from ...loaders.formats.tfrecord import frame
from .dataset import GenerateJpeg, ShardFile
from .folder import Progress, temporary
from .jpeg_images import jpeg_image, jpeg_label, jpeg_sides
from .sample_shards import RecordStream
from .shard_writer import ShardWriter

_FRAME_BYTES = 700  # of a record, beside its image
_AHEAD = 8


def expected_bytes(config: GenerateJpeg) -> int:
    """What all shards take, about: the images' sizes are known once they are made."""
    return config.num_images * (config.mean_bytes + _FRAME_BYTES)


def write_jpeg_shards(
    folder: Path, config: GenerateJpeg, made: list[Path], progress: Progress | None, num_threads: int
) -> Iterator[ShardFile]:
    """Write all shards under their temporary names, which are added to `made`."""
    done, total = 0, expected_bytes(config)
    num_shards = -(-config.num_images // config.images_per_shard)
    with closing(_made_ahead(config, num_threads)) as records, ThreadPoolExecutor(1, "write") as pool:
        for shard in range(num_shards):
            name = f"train-{shard:05d}-of-{num_shards:05d}.tfrecord"
            first, stop = shard * config.images_per_shard, min((shard + 1) * config.images_per_shard, config.num_images)
            made.append(temporary(folder, name))
            with ShardWriter(made[-1], pool) as writer:
                stream = RecordStream(writer)
                for _ in range(first, stop):
                    done += stream.write(np.frombuffer(next(records), np.uint8))
                    if progress:
                        progress(min(done, total), total)
                stream.flush()
                digest = writer.finish()
            yield ShardFile(name=name, num_images=stop - first, bytes=writer.num_bytes, xxh3_128=digest)


def jpeg_record(config: GenerateJpeg, index: int) -> bytes:
    """Record `index`, framed."""
    height, width = jpeg_sides(config, index)
    label = jpeg_label(config.seed, index)
    name = f"n{label:08d}"
    return encoded_record(
        jpeg_image(config, index),
        (height, width),
        label,
        synset=name,
        text=f"class {label}",
        encoding="JPEG",
        filename=f"{name}_{index:012d}.JPEG",
    )


def encoded_record(
    data: bytes, sides: tuple[int, int], label: int, *, synset: str, text: str, encoding: str, filename: str
) -> bytes:
    """The framed record of an encoded image of these sides (height, width), in three channels once it is decoded."""
    features: dict[str, bytes | int] = {
        "image/height": sides[0],
        "image/width": sides[1],
        "image/colorspace": b"RGB",
        "image/channels": 3,
        "image/class/label": label,
        "image/class/synset": synset.encode(),
        "image/class/text": text.encode(),
        "image/format": encoding.encode(),
        "image/filename": filename.encode(),
        "image/encoded": data,
    }
    return frame(encode_example(features, padded_varints=False))


def _made_ahead(config: GenerateJpeg, num_threads: int) -> Generator[bytes]:
    """Every record in order, made some ahead."""
    pending: deque[Future[bytes]] = deque()
    indices = iter(range(config.num_images))
    pool = ThreadPoolExecutor(num_threads, "encode")
    try:
        while True:
            while len(pending) < num_threads + _AHEAD and (index := next(indices, None)) is not None:
                pending.append(pool.submit(jpeg_record, config, index))
            if not pending:
                return
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
