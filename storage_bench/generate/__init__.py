"""Data with known content: shards whose every byte can be computed again from (seed, index).

    Generate           images of one size     pixels.py   -> forms.py         -> image_shards.py  .tfrecord, .tensors
    GenerateSamples    opaque samples         samples.py  -> sample_forms.py  -> sample_shards.py .tfrecord, .npz
                       (MLPerf's workloads)
    GenerateJpeg       JPEG images            jpeg_images.py                   -> jpeg_shards.py   .tfrecord
    folder   train-00000-of-00008.tfrecord ...  dataset.json            folder.py: whole, or as it was before

Threads make data some way ahead; the caller's thread hashes them in order while one more writes, past the page cache
(O_DIRECT) where the file system has it: several times faster than write-back, and nothing stays cached.
"""

from __future__ import annotations

from .dataset import (
    DESCRIPTION,
    NUM_CLASSES,
    Dataset,
    Generate,
    GenerateError,
    GenerateJpeg,
    GenerateSamples,
    GenerateUsageError,
    ShardFile,
    WorkloadData,
    read_dataset,
)
from .image_shards import record_bytes
from .jpeg_images import jpeg_image, jpeg_label, label_of_image
from .pixels import label_of_pixels, sample_label, sample_pixels
from .samples import sample_bytes_of, sample_sizes
from .write import find_dataset, generate, total_bytes

__all__ = [
    "DESCRIPTION",
    "NUM_CLASSES",
    "Dataset",
    "Generate",
    "GenerateError",
    "GenerateJpeg",
    "GenerateSamples",
    "GenerateUsageError",
    "ShardFile",
    "WorkloadData",
    "find_dataset",
    "generate",
    "jpeg_image",
    "jpeg_label",
    "label_of_image",
    "label_of_pixels",
    "read_dataset",
    "record_bytes",
    "sample_bytes_of",
    "sample_label",
    "sample_pixels",
    "sample_sizes",
    "total_bytes",
]
