"""TFRecord shards of JPEG images, with the fields of TensorFlow's build_imagenet_data script.

    threads: image -> tf.Example -> framed record, some ahead      caller: records in order, through aligned buffers

Source of the fields: _convert_to_example in research/slim/datasets/build_imagenet_data.py of
https://github.com/tensorflow/models.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np

from ...loaders.formats.example import encode_example
from ...loaders.formats.tfrecord import frame
from .dataset import GenerateJpeg, ShardFile
from .folder import Progress
from .jpeg_images import jpeg_image, jpeg_label, jpeg_sides
from .record_stream import made_ahead, write_record_shards

_FRAME_BYTES = 700  # of a record, beside its image
_AHEAD = 8


def expected_bytes(config: GenerateJpeg) -> int:
    """What all shards take, about: the images' sizes are known once they are made."""
    return config.num_images * (config.mean_bytes + _FRAME_BYTES)


def write_jpeg_shards(
    folder: Path, config: GenerateJpeg, made: list[Path], progress: Progress | None, num_threads: int
) -> Iterator[ShardFile]:
    """Write all shards under their temporary names, which are added to `made`."""
    indices = range(config.num_images)
    ahead = made_ahead(partial(jpeg_record, config), indices, num_threads=num_threads, num_ahead=_AHEAD, name="encode")
    with closing(ahead):
        yield from write_record_shards(
            folder,
            ([np.frombuffer(record, np.uint8)] for record in ahead),
            num_records=config.num_images,
            records_per_shard=config.images_per_shard,
            suffix=".tfrecord",
            total_bytes=expected_bytes(config),
            made=made,
            progress=progress,
        )


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
