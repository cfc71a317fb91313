"""Convert a set: parts side by side, each read, made, written, read back, and only then given its name.

plan -> ledger -> [ records -> samples -> part in its room -> on the disk -> read back, compared -> name, ledger ]
                    `------------------- one thread a part -------------------'
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from time import perf_counter

import numpy as np
import xxhash

from ...loaders.discovery import ShardSource
from ...loaders.formats.image_index import open_image_folder
from ...loaders.images.decoders import BrokenImageError
from ...results.privacy import public_text
from ..generate.dataset import ShardFile
from ..generate.folder import prepared
from ..sample_format import SampleOptions
from ..staging.streams import Progress, Streams
from .forms import form_of
from .ledger import Broken, Ledger, Row
from .outcome import Converted
from .place import default_jobs, require_apart, require_only_ours, require_room
from .plan import Part, Plan, plan_of
from .samples import Maker, Sample, stored_bytes
from .settings import Convert, ConvertError, ConvertUsageError
from .source import Source
from .target import ROOMS_NAME, ImageFiles, Made, Shards, Target, new_room, write_description

_UNSOUND = "the target is unsound, name another folder"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def convert(
    source: ShardSource,
    target: Path,
    config: Convert,
    *,
    options: SampleOptions | None = None,
    progress: Progress | None = None,
) -> Converted:
    """Make the set `target` of `source`, or go on where an earlier run of the same was ended.

    Every part is read back and held against what was written before it gets its name.  Raises ConvertUsageError where
    the folder holds something else, ConvertError for a broken image, a disk that is full or fails, or a source that
    has changed; what is whole by then stays.
    """
    require_apart(source, target)
    with closing(Source(source, options)) as opened:
        plan = plan_of(opened, config)
        try:
            with prepared(target), ExitStack() as stack:
                return _Conversion(opened, target, plan, progress, stack).run()
        except OSError as error:
            raise _failed(error, target) from error


def _failed(error: OSError, target: Path) -> ConvertError:
    """What went wrong with the target, or with the source, and that it can be gone on with."""
    go_on = "what is whole stays, and the same command goes on from there"
    if error.errno in _NO_SPACE:
        return ConvertError(f"{target}: no space left ({error.strerror}); make room: {go_on}")
    place = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else target
    if place.is_relative_to(target) or target.is_relative_to(place):
        return ConvertError(f"{target}: cannot be written ({error.strerror}); give a folder that can: {go_on}")
    return ConvertError(f"{place}: cannot be read ({error.strerror}); see the storage: {go_on}")


class _Conversion:
    """One run; threads make parts, the caller's thread waits for them."""

    def __init__(self, source: Source, folder: Path, plan: Plan, progress: Progress | None, stack: ExitStack) -> None:
        self._source = source
        self._folder = folder
        self._plan = plan
        self._jobs = min(plan.config.jobs or default_jobs(), len(plan.parts))
        self._maker = Maker(plan.config, encoded=source.encoded)
        self._ledger = Ledger(folder, plan.as_ledger())
        pool = stack.enter_context(ThreadPoolExecutor(self._jobs, "write"))
        form = None if plan.classes else form_of(plan.config.format, plan.shape, plan.names)
        self._target: Target = (
            ImageFiles(folder, plan.classes) if form is None else Shards(folder, form, plan.described(source), pool)
        )
        self._threads = Streams(self._jobs, progress)
        self._bytes_in: list[int] = []  # of each part that was made

    def run(self) -> Converted:
        """See `convert`."""
        plan = self._plan
        require_only_ours(self._folder, self._ledger.begun, plan)
        self._require_same_care()
        begin = perf_counter()
        whole = self._whole()
        missing = [part for part in plan.parts if part.name not in whole]
        if missing or not self._ledger.finished:
            require_room(self._folder, plan, num_images=_sum(missing))
            self._ledger.begin()
            try:
                self._threads.run("convert", self._make, missing, total=_sum(missing))
            finally:
                shutil.rmtree(self._folder / ROOMS_NAME, ignore_errors=True)
            self._finish()
        rows = tuple(self._ledger.rows[part.name] for part in plan.parts)
        made = tuple(part.name for part in missing)
        return Converted(self._folder, plan, rows, made, sum(self._bytes_in), perf_counter() - begin, self._jobs)

    def _require_same_care(self) -> None:
        """Who does not ask for images to be left out is told that some were, and nothing is done about it."""
        skipped = next((row.skipped[0] for row in self._ledger.rows.values() if row.skipped), None)
        if skipped is not None and self._plan.config.on_error == "raise":
            raise ConvertUsageError(
                f"{self._folder}: broken images were left out here ({skipped.reason}); ask for it again with "
                f"--on-error skip, or convert into an empty folder"
            )

    def _whole(self) -> set[str]:
        """The parts that are there, read back and held against the ledger's digests."""
        known = [part for part in self._plan.parts if part.name in self._ledger.rows]

        def is_whole(part: Part) -> bool:
            row = self._ledger.rows[part.name]
            skipped = {broken.record for broken in row.skipped}
            order, labels = self._plan.order, self._source.labels
            numbers = [number for number in range(part.first, part.stop) if int(order[number]) not in skipped]
            there = not row.num_images or self._target.is_whole(
                row, numbers, {number: int(labels[order[number]]) for number in numbers}
            )
            self._threads.count(part.num_images)
            return there

        found = self._threads.run("check", is_whole, known, total=_sum(known))
        return {part.name for part, there in zip(known, found, strict=True) if there}

    def _make(self, part: Part) -> bool:
        """One part, from its records to its name."""
        self._maker.begin_thread()
        room, made, skipped = new_room(self._folder, part.name), list[Made](), list[Broken]()
        begin = perf_counter()
        num_bytes, digest = self._target.write(room, part.name, self._samples(part, made, skipped))
        if made:
            self._read_back(room, self._target.expected(made))
            self._target.publish(room, part.name, made)
        shutil.rmtree(room)
        self._ledger.add(
            Row(
                name=part.name,
                num_images=len(made),
                bytes=num_bytes if made else 0,
                xxh3_128=digest,
                skipped=tuple(skipped),
                pngs=tuple(one.number for one in made if one.is_png) if self._plan.classes else (),
                seconds=perf_counter() - begin,
            )
        )
        return True

    def _samples(self, part: Part, made: list[Made], skipped: list[Broken]) -> Iterator[Sample]:
        """The part's samples in order; what was made and what was left out is added to both lists."""
        records, num_bytes = self._plan.order[part.first : part.stop], 0
        for number, read in enumerate(self._source.read(records), part.first):
            self._threads.require_going()
            try:
                sample = self._maker.make(read.data, read.label, number)
            except BrokenImageError as error:
                skipped.append(self._broken(read.record, error))
            else:
                self._require_shape(sample, read.record)
                made.append(Made(read.label, xxhash.xxh3_64_intdigest(sample.stored), number, sample.encoding == "png"))
                yield sample
            num_bytes += read.data.nbytes
            self._threads.count(1)
        self._bytes_in.append(num_bytes)

    def _broken(self, record: int, error: BrokenImageError) -> Broken:
        rule = f"{self._source.place(record)}: its image cannot be decoded: {error}"
        if self._plan.config.on_error == "raise":
            raise ConvertError(f"{rule}; write this record again, or leave broken images out with --on-error skip")
        return Broken(record=record, reason=public_text(rule))

    def _require_shape(self, sample: Sample, record: int) -> None:
        shape = self._plan.shape
        if shape is not None and sample.data.shape != shape:
            raise ConvertUsageError(
                f"{self._source.place(record)}: its image has {sample.height} x {sample.width} pixels, the first one "
                f"{shape[0]} x {shape[1]}, and {self._plan.config.format} holds images of one size; give --size"
            )

    def _read_back(self, room: Path, expected: Sequence[Made]) -> None:
        """Raise ConvertError where what lies in `room`, read as a set, is not what was made."""
        with closing(Source(room)) as back:
            if len(back) != len(expected):
                raise ConvertError(f"{room}: holds {len(back)} images, {len(expected)} were written; {_UNSOUND}")
            for read, one in zip(back.read(np.arange(len(back))), expected, strict=True):
                self._threads.require_going()
                digest = xxhash.xxh3_64_intdigest(stored_bytes(read.data))
                if (read.label, digest) != (one.label, one.digest):
                    raise ConvertError(f"{back.place(read.record)}: did not read back as it was written; {_UNSOUND}")

    def _finish(self) -> None:
        self._source.require_unchanged()
        rows = [self._ledger.rows[part.name] for part in self._plan.parts]
        if not any(row.num_images for row in rows):
            raise ConvertError(f"{self._folder}: no image of the source can be decoded ({rows[0].skipped[0].reason})")
        if isinstance(self._target, Shards):
            shards = [
                ShardFile(name=row.name, num_images=row.num_images, bytes=row.bytes, xxh3_128=row.xxh3_128)
                for row in rows
                if row.num_images
            ]
            write_description(self._folder, self._target.description, shards)
        if self._plan.classes:
            self._require_classes(sum(row.num_images for row in rows))
        self._ledger.finish()

    def _require_classes(self, num_images: int) -> None:
        """Raise ConvertError where the folder, read as a set, has not the classes and images that it should."""
        index = open_image_folder(self._folder)[1]
        names = list(self._plan.classes.values())
        lost = next((name for name in names if name not in index.classes), None)
        if lost is not None:
            raise ConvertError(
                f"{self._folder / lost}: every image of this class is broken, and without its folder the labels of "
                f"those behind it would change; take the class out of the source, or convert to another format"
            )
        if index.num_records != num_images or list(index.classes) != names:
            raise ConvertError(
                f"{self._folder}: holds {index.num_records} images of {len(index.classes)} classes, {num_images} of "
                f"{len(names)} were made; something else is written there: convert into a folder of your own"
            )


def _sum(parts: Sequence[Part]) -> int:
    return sum(part.num_images for part in parts)
