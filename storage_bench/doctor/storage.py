"""The file system a path is on: what it is, what lies under it, which ways of reading it takes."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ...loaders.engines.readers import DirectRefusedError, ReadError, direct_refused
from ...loaders.evidence import counter_for
from ...loaders.page_cache import resident_bytes
from ...loaders.remote import shown_address
from ...results.mounts import Mount, covering, mount_of, parse_mountinfo
from ...results.privacy import PRIVATE_OPTIONS, public_path
from ..evidence import LOCAL_FILE_SYSTEMS
from .alignment import Alignment, direct_alignment
from .cores import network_card
from .devices import disks_of, stack_of
from .finding import Finding, Seen, Subject
from .gds_support import gds_support, p2pdma_support

NO_FILE = Seen(None, "no file to try it on", "name a data folder or a file")
_CREDENTIALS = re.compile(r"[^/@\s]+:[^/@\s]*@")


def named_all_the_same(finding: Finding, path: Path) -> Finding:
    """A finding about a file system that does not answer, with what the mount table alone says of it."""
    if finding.name != "file system" or not finding.seen.startswith("did not answer"):
        return finding
    table = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    mount = covering(parse_mountinfo(table), Path(os.path.normpath(path)))
    return Finding(finding.group, finding.name, None, f"{_described(mount)} {finding.seen}", finding.advice)


def of_an_address(address: str) -> list[Finding]:
    """What is to be said of objects on a server: they lie on no file system of this machine."""
    text = f"{shown_address(address)} is an object's address: it lies on no file system of this machine"
    return [Finding(SUBJECT.group, name, None, text, "see route remote") for name in SUBJECT.looks]


def nearest(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return place


def sample_file(path: Path) -> Path | None:
    """A file with content to try things on: the path itself, or one in the folder it is or will be in."""
    place = nearest(path)
    if not place.is_dir():
        return place if place.is_file() and place.stat().st_size else None
    entries = (entry for entry in sorted(place.iterdir()) if entry.is_file() and entry.stat().st_size)
    return next((entry for entry in entries if os.access(entry, os.R_OK)), None)


def named_path(path: Path) -> Seen:
    """Whether it is there; all else is said of the nearest folder above it, which may be on quite another disk."""
    shown = public_path(path.absolute())
    if path.exists():
        return Seen(True, f"{shown}, a {'folder' if path.is_dir() else 'file'}")
    above = public_path(nearest(path))
    advice = "see how it is spelled, and whether its file system is mounted"
    return Seen(False, f"{shown} does not exist: what follows is of {above}", advice)


def file_system(path: Path) -> Seen:
    """Its kind, where it comes from, and the room on it."""
    place = nearest(path)
    space = os.statvfs(place)
    free, total = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
    room = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    names = f", {space.f_favail} more files fit" if space.f_files else ""
    return Seen(True, f"{_described(mount_of(place))}, {room}{names}")


def mount_options(path: Path) -> Seen:
    """The options it is mounted with, but those that name people or secrets."""
    options = [option for option in mount_of(nearest(path)).options if not PRIVATE_OPTIONS.match(option)]
    return Seen(True, ",".join(options))


def writing(path: Path) -> Seen:
    """Whether this user may write there."""
    place = nearest(path)
    folder = place if place.is_dir() else place.parent
    if os.access(folder, os.W_OK | os.X_OK):
        return Seen(True, "files can be made here")
    return Seen(False, "read-only for this user", "copies, checkpoints and file rates need a folder they can write")


def block_device(path: Path) -> Seen:
    """The disks under it, and how their queues are set."""
    place = nearest(path)
    mount = mount_of(place)
    disks = disks_of(mount)
    if not disks:
        return Seen(None, f"{mount.fstype} lies on no block device of this machine")
    stack = stack_of(mount)
    through = f"{' on '.join(stack)}: " if len(stack) > 1 else ""
    advice = next((text for disk in disks if (text := disk.advice)), "")
    return Seen(True, through + "; ".join(map(str, disks)), advice)


def gds(path: Path) -> Seen:
    """Whether NVIDIA's cuFile reads this file system into GPU memory directly."""
    mount = mount_of(nearest(path))
    return gds_support(mount, disks_of(mount))


def p2pdma(path: Path) -> Seen:
    """Whether the disk below may send to a GPU by itself."""
    mount = mount_of(nearest(path))
    return p2pdma_support(mount, disks_of(mount), stack_of(mount))


def byte_counter(path: Path) -> Seen:
    """Whether a counter proves what storage delivered."""
    counter = counter_for([nearest(path)])
    if counter.counter_class == "none":
        return Seen(False, counter.reason, "figures are reported as `route not proven`")
    return Seen(True, f"{counter.counter_class}: {counter.reason}")


def engine_direct(path: Path) -> Seen:
    """Whether O_DIRECT reads work: one is really made."""
    sample = sample_file(path)
    if sample is None:
        return NO_FILE
    try:
        refused = direct_refused(sample)
    except (DirectRefusedError, ReadError) as error:
        refused = f"reading {sample.name} failed: {error.strerror}"
    return Seen(refused is None, refused or "O_DIRECT works", "use --engine buffered" if refused else "")


def direct_io_alignment(path: Path) -> Seen:
    """What O_DIRECT asks of offsets, lengths and addresses: the kernel is asked, else a smaller read is tried."""
    sample = sample_file(path)
    if sample is None:
        return NO_FILE
    alignment = direct_alignment(sample)
    if alignment is None:
        return Seen(None, "neither the kernel nor a trial tells", "use --engine buffered")
    if not alignment.possible:
        return Seen(False, "the kernel says that this file takes no O_DIRECT", "use --engine buffered")
    return Seen(alignment.fits, str(alignment), "" if alignment.fits else _coarse(alignment))


def engine_mmap(path: Path) -> Seen:
    """Whether files may be mapped by `auto`: on a local file system, where nobody else cuts them short."""
    mount = mount_of(nearest(path))
    if mount.fstype in LOCAL_FILE_SYSTEMS or mount.fstype in ("tmpfs", "ramfs", "overlay"):
        return Seen(True, f"{mount.fstype} is local")
    text = f"on {mount.fstype} another client may cut a mapped file short, which ends the program (SIGBUS)"
    return Seen(False, text, "ask for --engine mmap only where nobody writes the data")


def residency(path: Path) -> Seen:
    """Whether the kernel tells what of a file is in memory."""
    sample = sample_file(path)
    if sample is None:
        return NO_FILE
    if resident_bytes(sample) is None:
        return Seen(False, "the kernel does not tell", "own the files, or use Linux 6.5 or newer")
    return Seen(True, "the kernel tells what is in the page cache")


def card(path: Path) -> Seen:
    """The network card that the data come through, where they do."""
    return network_card(nearest(path))


def _described(mount: Mount) -> str:
    return f"{mount.fstype} from {_CREDENTIALS.sub('', mount.source)} at {mount.mount_point}"


def _coarse(alignment: Alignment) -> str:
    return f"our reads are aligned to 4096 bytes, no multiple of {alignment.offset_bytes}: use --engine buffered"


SUBJECT = Subject(
    "storage",
    __name__,
    {
        "path": named_path,
        "file system": file_system,
        "mount options": mount_options,
        "writing": writing,
        "block device": block_device,
        "GDS support": gds,
        "P2PDMA support": p2pdma,
        "network card": card,
        "byte counter": byte_counter,
        "engine direct": engine_direct,
        "O_DIRECT alignment": direct_io_alignment,
        "engine mmap": engine_mmap,
        "residency": residency,
    },
)
