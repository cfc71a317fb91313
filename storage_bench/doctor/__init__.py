"""`iobench doctor`: what can be used here, why the rest cannot, and what to do about it.  Nothing here hangs.

    software, network, host     looked at here: files of /proc and /sys, packages that are looked up and not imported
    storage, gpu                looked at by a process each, which is given up after two seconds (asking.py)
    routes                      follow from these findings

A subject is a file: a table of looks by name, each a function of the path that was asked about.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...loaders.remote import is_remote
from . import gpu, host, network, software, storage
from .asking import Witness
from .finding import Finding, Route, look_at_all
from .routes import find_routes

__all__ = ["Diagnosis", "Finding", "Route", "examine"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything that was seen, and the routes that follow from it."""

    findings: tuple[Finding, ...]
    routes: tuple[Route, ...]


def examine(source: Path | str) -> Diagnosis:
    """Look at this machine, and at the file system that `source` is on or will be on; takes no longer than 3 s.

    Of the address of an object nothing is looked at but the machine.
    """
    path = Path("/") if is_remote(source) else Path(source).absolute()
    disks = None if is_remote(source) else Witness(storage.SUBJECT, path)
    cards = Witness(gpu.SUBJECT, path)
    machine = [look_at_all(subject, path) for subject in (software.SUBJECT, network.SUBJECT, host.SUBJECT)]
    below = storage.of_an_address(str(source)) if disks is None else disks.findings()
    below = [storage.named_all_the_same(finding, path) for finding in below]
    findings = [*machine[0], *cards.findings(), *below, *machine[1], *machine[2]]
    return Diagnosis(tuple(findings), tuple(find_routes({finding.name: finding for finding in findings})))
