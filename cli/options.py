"""What commands share: exit statuses, the application they hang on, and the options that mean the same everywhere."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .listing import CommandList

if TYPE_CHECKING:
    from ..storage_bench.launching.hosts import HostSlots

DONE, MISSED, USAGE, INVALID, ENVIRONMENT, INTERRUPTED = 0, 1, 2, 3, 4, 130

app = typer.Typer(
    cls=CommandList,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Feeds accelerators from storage, and measures how many the storage can feed.",
    epilog="Exit: 0 done or met, 1 missed, 2 usage, 3 measurement invalid, 4 data or environment, 130 interrupted.",
)

Json = Annotated[bool, typer.Option("--json", help="one JSON document on stdout, everything else on stderr")]
Out = Annotated[Path | None, typer.Option("--out", help="folder of this run  [default: ./iobench-runs/RUN]")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="settings in a TOML file")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="one setting, key=value; may be given again")]


def _no_address(value: Path) -> Path:
    """Refuses an address where files are read; as a Path it has lost a slash."""
    if re.match(r"(s3|https?):/", str(value), re.IGNORECASE) and not value.exists():
        raise typer.BadParameter("this command reads files; index, load and stage take addresses, too")
    return value


DataPath = Annotated[Path, typer.Argument(help="folder of shards, or one file", readable=False, callback=_no_address)]
DataSource = Annotated[str, typer.Argument(metavar="PATH", help="folder of shards, one file, s3:// prefix or address")]
Shape = Annotated[str | None, typer.Option(metavar="H,W,C", help="of the images, where the shards do not say it")]
Dtype = Annotated[str | None, typer.Option(help="of the pixels  [uint8, or what the shards say]")]
ImageField = Annotated[str | None, typer.Option(help="feature that holds the image  [image/encoded]")]
LabelField = Annotated[str | None, typer.Option(help="feature that holds the label, '' for none  [image/class/label]")]
Transform = Annotated[str | None, typer.Option(help="of encoded images: train, validation or none")]
Trace = Annotated[
    Path | None, typer.Option(metavar="FILE.json", help="what ran when, for ui.perfetto.dev; tracing costs a little")
]
TRACED = "every read was noted for a trace, which costs time: measure without --trace to compare"
Hosts = Annotated[
    str | None, typer.Option(metavar="A:N,B:N", help="hosts and their ranks, or job for those of Slurm or PBS")
]
HostFile = Annotated[Path | None, typer.Option(help="hosts, one a line, as `a slots=4`")]
Ssh = Annotated[str, typer.Option(help="the words that reach a host, as `ssh -F FILE`")]
LocalFolder = Annotated[Path | None, typer.Option("--local", help="where a local copy may go  [$IOBENCH_LOCAL, cache]")]
EngineFlag = Annotated[
    str | None, typer.Option(help="auto, buffered, direct; for storage and load also mmap, kvikio; for load remote")
]


def data_source(text: str) -> Path | str:
    """A path, or an address as it is."""
    return text if "://" in text else Path(text)


def local_folder(given: Path | None) -> Path:
    """Where a local copy may go: --local, $IOBENCH_LOCAL, the user's cache; a memory file system only when named."""
    if given is not None:
        return given
    if named := os.environ.get("IOBENCH_LOCAL"):
        return Path(named)
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise typer.BadParameter("there is no home folder to copy to; give --local DIR") from None
    return cache / "iobench" / "staged"


def hosts_given(hosts: str | None, hostfile: Path | None) -> tuple[HostSlots, ...]:
    """The hosts that ranks run on; none where all run here."""
    from ..storage_bench.launching.hosts import job_hosts, parse_hosts, read_host_file

    if hosts is not None and hostfile is not None:
        raise typer.BadParameter("--hosts and --hostfile both name the hosts; give one of them")
    if hostfile is not None:
        return read_host_file(hostfile)
    if hosts is None:
        return ()
    return job_hosts(os.environ) if hosts == "job" else parse_hosts(hosts)
