"""Our own road: DataLoader over a ShardSet, of raw images or of encoded ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ... import __version__
from ..engines.readers import BufferedReader
from ..traced import Recorder, trace_set
from ..transforms import ImageNetTrain, ImageNetValidation, ImageTransform, resize_of
from .road import RoadBatch, RoadOptions


class IobenchRoad:
    """DataLoader over a ShardSet; `engine` decides how it reads."""

    def __init__(self, paths: Sequence[Path], options: RoadOptions) -> None:
        from ..dataloader import DataLoader
        from ..shards import ShardSet

        evicting = options.cold and options.engine == "buffered"
        self._set = ShardSet.open(
            paths,
            engine=BufferedReader(evict_behind=True) if evicting else options.engine,
            device="cpu",
            shuffle_mode=options.shuffle,
            seed=options.seed,
            transform=_transform_of(options),
        )
        self.version = __version__
        self.engine = self._set.reader.engine
        self._loader: Any = DataLoader(
            self._set,
            batch_size=options.batch_size,
            shuffle=options.shuffle != "off",
            num_workers=options.threads,
            prefetch_factor=options.prefetch_factor if options.threads else None,
            persistent_workers=bool(options.transform) and options.threads > 0,  # with the memory they decode into
        )

    def trace(self, recorder: Recorder) -> None:
        """Have reads and decodes noted from now on."""
        trace_set(self._set, recorder)

    def batches(self) -> Iterator[RoadBatch]:
        """One epoch after another."""
        while True:
            with closing(iter(self._loader)) as epoch:
                for images, labels in epoch:
                    yield RoadBatch(images.permute(0, 2, 3, 1).numpy(), labels.numpy())
                    del images, labels

    def close(self) -> None:
        """End the threads, close the files."""
        del self._loader
        self._set.close()


class ImageIobenchRoad(IobenchRoad):
    """The same with a transform, which tells where the time of its threads goes."""

    def hop_seconds(self) -> dict[str, float]:
        """See TimedRoad."""
        found: dict[str, float] = self._loader.tally.hop_seconds()
        return found

    def decoder(self) -> tuple[str, str]:
        """What decodes, and why that."""
        assert self._set.decoding is not None  # its images are encoded
        return self._set.decoding.name, self._set.decoding.reason


def _transform_of(options: RoadOptions) -> ImageTransform | None:
    size = options.image_size
    if not options.transform:
        return None
    return ImageNetTrain(size) if options.transform == "train" else ImageNetValidation(size, resize=resize_of(size))
