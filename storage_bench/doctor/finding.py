"""What a doctor's look comes to: a subject's probes, what each saw, and the routes that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

Findings = Mapping[str, "Finding"]


class Seen(NamedTuple):
    """What one look saw: whether the thing can be used (None: not told), in words, and the way out where it cannot."""

    available: bool | None
    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: whether it is available, what was seen, and the way out where it is not."""

    group: str
    name: str
    available: bool | None
    seen: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """One way bytes can take from storage to where they are used: whether it is open here, and why."""

    name: str
    available: bool | None
    reason: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """A group of looks, by name, in the module of that name; each is given the path that was asked about.

    `when_silent` is the way out where they do not answer.
    """

    group: str
    module: str
    looks: Mapping[str, Callable[[Path], Seen]]
    when_silent: str = "see whether it hangs: `ls`, `df`, `dmesg`"


def look(subject: Subject, name: str, path: Path) -> Seen:
    """Look at one thing; whatever goes wrong with that is itself what was seen."""
    try:
        return subject.looks[name](path)
    except Exception as error:  # the doctor looks at anything, and one thing it cannot see hides no other
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Seen(None, f"cannot be told: {said or type(error).__name__}")


def look_at_all(subject: Subject, path: Path) -> list[Finding]:
    """Look at everything of a subject, here and now."""
    return [Finding(subject.group, name, *look(subject, name, path)) for name in subject.looks]


def text_of(path: Path | str) -> str | None:
    """The stripped text of a small file of /proc or /sys; None where there is none to read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None
