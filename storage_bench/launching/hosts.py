"""Which hosts run ranks, and how many each: from a list, a file, or what Slurm and PBS say of a job.

--hosts a:4,b:4          a name ssh knows (or localhost), and its ranks
host file                a slots=4 | a:4 | a        one host a line, # begins a comment
Slurm                    SLURM_JOB_NODELIST=gpu[01-03,7], SLURM_NTASKS_PER_NODE or SLURM_GPUS_ON_NODE
PBS                      PBS_NODEFILE, a line for each rank
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .outcome import LaunchError

LOCAL = "localhost"
MAX_HOSTS = 10_000
_NAME = re.compile(r"([A-Za-z0-9_.-]+@)?[A-Za-z0-9_][A-Za-z0-9_.-]*")


class HostsError(LaunchError):
    """Hosts are not given in a form that is known."""

    known_forms: ClassVar[str] = "write a:4,b:4, or a host file with lines as `a slots=4`"

    def __init__(self, message: str) -> None:
        super().__init__(f"{message}; {self.known_forms}", exit_status=2)


@dataclass(frozen=True, slots=True)
class HostSlots:
    """A host, by the name that ssh knows, and how many ranks it may run."""

    name: str
    slots: int

    def __post_init__(self) -> None:
        """A name may be nothing that ssh, or a shell, could take for something else."""
        if not _NAME.fullmatch(self.name):
            raise HostsError(f"host {self.name!r} is not a host's name")
        if not 1 <= self.slots <= 4096:
            raise HostsError(f"host {self.name}: {self.slots} ranks; give 1 to 4096")


def parse_hosts(text: str) -> tuple[HostSlots, ...]:
    """`a:4,b:4`; a host without a number runs one rank.  Raises HostsError."""
    return _once_each([_host(word.strip(), text) for word in text.split(",")])


def read_host_file(path: Path) -> tuple[HostSlots, ...]:
    """Hosts from the lines of a file, as MPI and Horovod have them; raises HostsError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HostsError(f"{path}: the host file cannot be read ({error})") from error
    lines = [line for raw in text.splitlines() if (line := raw.split("#")[0].strip())]
    return _once_each([_host_line(line, path) for line in lines], place=str(path))


def job_hosts(environment: Mapping[str, str]) -> tuple[HostSlots, ...]:
    """The hosts of the Slurm or PBS job that this process is part of; raises HostsError where there is none."""
    if nodes := environment.get("SLURM_JOB_NODELIST"):
        slots = _slurm_slots(environment)
        return _once_each([HostSlots(name, slots) for name in expand_nodes(nodes)])
    if listed := environment.get("PBS_NODEFILE"):
        return _pbs_hosts(Path(listed))
    raise HostsError("this is no Slurm or PBS job: neither SLURM_JOB_NODELIST nor PBS_NODEFILE is set")


def expand_nodes(text: str) -> list[str]:
    """Slurm's short form of names in full: gpu[01-03,7],login becomes gpu01, gpu02, gpu03, gpu7, login."""
    found: list[str] = []
    for part in re.findall(r"[^,\[\]]*(?:\[[^\]]*\][^,\[\]]*)*", text):
        if part:
            found.extend(_expand(part))
            if len(found) > MAX_HOSTS:
                raise HostsError(f"{text}: more than {MAX_HOSTS} hosts")
    return found


def assign(hosts: Sequence[HostSlots], num_ranks: int) -> list[tuple[HostSlots, range]]:
    """Which ranks each host runs, host by host; raises HostsError where the hosts have too few."""
    placed: list[tuple[HostSlots, range]] = []
    first = 0
    for host in hosts:
        last = min(first + host.slots, num_ranks)
        if first < last:
            placed.append((host, range(first, last)))
        first = last
    if first < num_ranks:
        raise HostsError(f"{num_ranks} ranks do not fit on {', '.join(f'{host.name}:{host.slots}' for host in hosts)}")
    return placed


def _host(word: str, text: str) -> HostSlots:
    name, colon, slots = word.rpartition(":") if ":" in word else (word, "", "1")
    if colon and not re.fullmatch(r"[0-9]{1,4}", slots):
        raise HostsError(f"hosts {text!r}: {word!r} has no number of ranks after the colon")
    return HostSlots(name, int(slots))


def _host_line(line: str, path: Path) -> HostSlots:
    if match := re.fullmatch(r"(\S+)\s+(?:slots|max_slots)\s*=\s*([0-9]{1,4})", line):
        return HostSlots(match[1], int(match[2]))
    if re.search(r"\s", line):
        raise HostsError(f"{path}: {line!r} is not a host and its slots")
    return _host(line, str(path))


def _once_each(hosts: Sequence[HostSlots], *, place: str = "hosts") -> tuple[HostSlots, ...]:
    if not hosts:
        raise HostsError(f"{place}: no host is named")
    twice = [host.name for host in hosts if sum(other.name == host.name for other in hosts) > 1]
    if twice:
        raise HostsError(f"{place}: {twice[0]} is named twice; give its ranks in one place")
    return tuple(hosts)


def _slurm_slots(environment: Mapping[str, str]) -> int:
    for name in ("SLURM_NTASKS_PER_NODE", "SLURM_GPUS_ON_NODE"):
        if re.fullmatch(r"[0-9]{1,4}", environment.get(name, "")):
            return int(environment[name])
    return 1


def _pbs_hosts(path: Path) -> tuple[HostSlots, ...]:
    try:
        names = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise HostsError(f"{path}: PBS's node file cannot be read ({error})") from error
    return _once_each([HostSlots(name, names.count(name)) for name in dict.fromkeys(names)], place=str(path))


def _expand(part: str) -> list[str]:
    """One name with at most a few [ranges]."""
    match = re.fullmatch(r"([^\[\]]*)\[([^\]]*)\](.*)", part)
    if match is None:
        return [part]
    before, inside, after = match.groups()
    return [f"{before}{number}{rest}" for number in _numbers(inside, part) for rest in _expand(after)]


def _numbers(ranges: str, part: str) -> list[str]:
    found: list[str] = []
    for text in ranges.split(","):
        match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", text)
        if match is None or int(match[2] or match[1]) - int(match[1]) > MAX_HOSTS:
            raise HostsError(f"{part}: {text!r} is not a range of numbers")
        width = len(match[1])
        found += [f"{number:0{width}d}" for number in range(int(match[1]), int(match[2] or match[1]) + 1)]
    return found
