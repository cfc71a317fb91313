"""Ranks on several hosts: own sshd on loopback addresses, made and removed here, with keys that are thrown away."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from iobench.storage_bench.launching.hosts import HostsError, HostSlots, parse_hosts
from iobench.storage_bench.launching.launch import LaunchError, horovod_available, launch_ranks
from iobench.storage_bench.sweep.command import measure_storage
from iobench.storage_bench.workload import StorageConfig, WorkloadUsageError
from iobench.training_bench.command import run_train
from iobench.training_bench.infer.plan import InferConfig
from iobench.training_bench.infer.run import run_infer
from iobench.training_bench.infer.setup import InferRun
from iobench.training_bench.places import Places
from iobench.training_bench.real.asked import RealRun, make_plan
from iobench.training_bench.real.plan import RealConfig
from iobench.training_bench.real.run import RANK_MODULE, run_real
from iobench.training_bench.scaling.grid import ScaleConfig, run_grid
from iobench.training_bench.scaling.journal import GridJournal
from iobench.training_bench.scaling.points import grid_outcome
from iobench.training_bench.train_run import TrainConfig

PROGRAMS = Path(__file__).parent / "storage_bench" / "programs"
ADDRESSES = ("127.0.0.2", "127.0.0.3")
SECRET = "a-secret-of-the-environment"
MISSING = horovod_available()
pytestmark = [pytest.mark.horovod, pytest.mark.skipif(MISSING is not None, reason=f"Horovod: {MISSING}")]


class KnownSet(Protocol):
    """A set of shards, as the fixtures make them."""

    folder: Path


@dataclass(frozen=True)
class SshHosts:
    """The words that reach the hosts, and the mark of every process on them."""

    ssh: tuple[str, ...]
    mark: str
    scratch: Path

    def are_clean(self) -> bool:
        """Whether no process and no file is left on the hosts."""
        return not self.processes() and not any(self.scratch.iterdir())

    def processes(self) -> dict[int, str]:
        """Pid and command line of all living processes that were started on the hosts."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:  # ended meanwhile
                continue
        return found


@pytest.fixture(scope="module")
def ssh_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHosts]:
    server = shutil.which("sshd") or shutil.which("/usr/sbin/sshd")
    if server is None or shutil.which("ssh") is None:
        pytest.skip("needs sshd and ssh (Debian: openssh-server, openssh-client)")
    if os.geteuid() != 0:
        pytest.skip("needs root, to start sshd")
    folder = tmp_path_factory.mktemp("ssh")
    folder.chmod(0o700)
    mark = f"IOBENCH_TEST_MARK_{uuid.uuid4().hex}"
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    (folder / "scratch").mkdir()
    (folder / "config").write_text("Host 127.0.0.9\n  Port 9\n")  # where nobody listens
    servers = [_start(server, folder, address, mark) for address in ADDRESSES]
    try:
        yield SshHosts(("ssh", "-F", str(folder / "config")), mark, folder / "scratch")
    finally:
        for each in servers:
            each.terminate()
            each.wait()


def _start(server: str, folder: Path, address: str, mark: str) -> subprocess.Popen[bytes]:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port = probe.getsockname()[1]
    settings = {
        "ListenAddress": address,
        "Port": port,
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "user.pub",
        "PidFile": "none",
        "StrictModes": "no",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "UsePAM": "no",
        "PermitRootLogin": "yes",
        "SetEnv": f"{mark}=1 PYTHONPATH={PROGRAMS} TMPDIR={folder / 'scratch'}",
    }
    file = folder / f"sshd-{address}"
    file.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    with (folder / "config").open("a") as config:
        config.write(
            f"Host {address}\n  Port {port}\n  IdentityFile {folder / 'user'}\n  IdentitiesOnly yes\n"
            f"  StrictHostKeyChecking no\n  UserKnownHostsFile {folder / 'known'}\n  LogLevel ERROR\n"
        )
    process = subprocess.Popen([server, "-D", "-e", "-f", file], stderr=(folder / f"log-{address}").open("wb"))
    assert _wait_until(lambda: _answers(address, port)), (folder / f"log-{address}").read_text()
    return process


def _answers(address: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


def _wait_until(condition: Callable[[], bool], *, within_s: float = 20.0) -> bool:
    deadline = time.monotonic() + within_s
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return met


TWO = tuple(HostSlots(address, 1) for address in ADDRESSES)


def test_ranks_on_two_hosts_meet_and_give_their_results_in_rank_order(
    ssh_hosts: SshHosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("IOBENCH_OWN", "goes along")
    reports: list[dict[str, Any]] = []
    results = launch_ranks(
        "rank_hello",
        {"word": "ü"},
        num_ranks=2,
        folder=tmp_path,
        timeout_s=60,
        hosts=TWO,
        ssh=ssh_hosts.ssh,
        on_progress=reports.append,
    )
    assert [result["gathered"] for result in results] == [[[0, ""], [1, "ü"]], None]
    assert [result["local_rank"] for result in results] == [0, 0]
    assert [json.loads((tmp_path / f"rank-{rank}.pid").read_text())["host"] for rank in (0, 1)] == list(ADDRESSES)
    assert reports == [{"ranks": 2}, {"word": "ü"}]
    assert all(result["environment"]["IOBENCH_OWN"] == "goes along" for result in results)
    assert all(SECRET not in json.dumps(result) for result in results)
    assert _wait_until(ssh_hosts.are_clean), ssh_hosts.processes()


@pytest.mark.parametrize(("hosts", "num_ranks"), [("127.0.0.3:1", 1), ("localhost:1,127.0.0.2:2", 3)])
def test_one_rank_elsewhere_and_hosts_beside_this_one(
    ssh_hosts: SshHosts, tmp_path: Path, hosts: str, num_ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PROGRAMS))  # as on the others
    results = launch_ranks(
        "rank_hello",
        {"word": "x"},
        num_ranks=num_ranks,
        folder=tmp_path,
        timeout_s=60,
        hosts=parse_hosts(hosts),
        ssh=ssh_hosts.ssh,
    )
    assert [result["rank"] for result in results] == list(range(num_ranks))
    assert [result["local_rank"] for result in results] == [0, 0, 1][:num_ranks]


def test_a_killed_rank_is_named_with_its_host_and_nothing_stays_there(ssh_hosts: SshHosts, tmp_path: Path) -> None:
    launcher = _start_launch(tmp_path / "run", ssh_hosts)
    rank = json.loads((tmp_path / "run/rank-1.pid").read_text())
    os.kill(rank["pid"], signal.SIGKILL)
    said, _ = launcher.communicate(timeout=60)
    assert f"rank 1 (pid {rank['pid']} on 127.0.0.3) was killed by SIGKILL" in said
    assert _wait_until(ssh_hosts.are_clean), ssh_hosts.processes()


@pytest.mark.parametrize(
    "victim",
    ["launch", pytest.param("guard", marks=pytest.mark.slow), pytest.param("keeper", marks=pytest.mark.slow), "agent"],
)
def test_nothing_stays_on_any_host_whoever_is_killed(ssh_hosts: SshHosts, tmp_path: Path, victim: str) -> None:
    launcher = _start_launch(tmp_path / "run", ssh_hosts)
    lines = list(ssh_hosts.processes().values())
    assert len(lines) >= 6  # keeper, agent and rank on both
    assert len(list(ssh_hosts.scratch.iterdir())) == 2
    assert not any(SECRET in line for line in lines)
    pid = launcher.pid if victim == "launch" else _named(f"iobench-{victim}", launcher.pid, ssh_hosts)
    os.kill(pid, signal.SIGKILL)
    launcher.communicate(timeout=60)
    assert _wait_until(ssh_hosts.are_clean), ssh_hosts.processes()


def test_an_interrupt_leaves_nothing_on_any_host(ssh_hosts: SshHosts, tmp_path: Path) -> None:
    launcher = _start_launch(tmp_path / "run", ssh_hosts)
    launcher.send_signal(signal.SIGINT)
    launcher.communicate(timeout=60)
    assert _wait_until(ssh_hosts.are_clean), ssh_hosts.processes()


def test_a_host_that_cannot_be_reached_is_named(ssh_hosts: SshHosts, tmp_path: Path) -> None:
    hosts = (*TWO[:1], HostSlots("127.0.0.9", 1))
    with pytest.raises(LaunchError, match=r"host 127\.0\.0\.9 \(ranks 1\): the connection ended") as raised:
        launch_ranks(
            "rank_hello",
            {"word": ""},
            num_ranks=2,
            folder=tmp_path,
            timeout_s=60,
            hosts=hosts,
            ssh=ssh_hosts.ssh,
        )
    assert raised.value.exit_status == 4


def test_more_ranks_than_the_hosts_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HostsError, match=r"3 ranks do not fit on 127\.0\.0\.2:1, 127\.0\.0\.3:1"):
        launch_ranks("rank_hello", {"word": ""}, num_ranks=3, folder=tmp_path, timeout_s=60, hosts=TWO)


@pytest.mark.slow
def test_two_hosts_learn_what_two_ranks_of_one_host_learn(
    ssh_hosts: SshHosts, tmp_path: Path, page_set: KnownSet
) -> None:
    run = RealRun(
        path=page_set.folder,
        config=RealConfig(num_classes=1000, drop_steps=0),
        model="resnet18",
        device="cpu",
        num_ranks=2,
        steps=3,
        batch_size=4,
    )
    told = make_plan(run).model_copy(update={"threads": 1}).model_dump(mode="json")
    launches = {
        "1x2": launch_ranks(RANK_MODULE, told, num_ranks=2, folder=tmp_path / "one", timeout_s=120, emulated=False),
        "2x1": launch_ranks(
            RANK_MODULE,
            told,
            num_ranks=2,
            folder=tmp_path / "two",
            timeout_s=120,
            emulated=False,
            hosts=TWO,
            ssh=ssh_hosts.ssh,
        ),
    }
    one, two = launches["1x2"], launches["2x1"]
    assert [rank["host"] for rank in two] == list(ADDRESSES)
    for mine, theirs in zip(one, two, strict=True):
        assert len(mine["losses"]) == 3
        assert theirs["losses"] == pytest.approx(mine["losses"], rel=1e-6)
        assert theirs["payload_bytes"] == mine["payload_bytes"] > 0


@pytest.mark.slow
def test_a_grid_runs_on_hosts_and_goes_on_where_one_is_lost(
    ssh_hosts: SshHosts, tmp_path: Path, page_set: KnownSet
) -> None:
    config = ScaleConfig(nodes=(1, 2), gpus=(1,), accelerator="0.02", batch_size=4, repeats=1, steps=4, rounds=1)
    hosts = (TWO[0], HostSlots("127.0.0.9", 1))
    journal = GridJournal(tmp_path, {}, resume=False)
    told: dict[str, Any] = {"local": tmp_path, "show": lambda *_: None, "ssh": ssh_hosts.ssh}
    failed = grid_outcome(run_grid(page_set.folder, config, journal, hosts=hosts, **told))
    assert [point.flags for point in failed.points if point.params["nodes"] == 2] == [("failed",)] * 2
    assert any("host 127.0.0.9 (ranks 1): the connection ended" in text for text in failed.invalid)

    again = GridJournal(tmp_path, {}, resume=True)  # which takes the cell that succeeded, and tries the other again
    whole = grid_outcome(run_grid(page_set.folder, config, again, hosts=TWO, **told))
    assert not whole.warnings  # the nodes are not simulated
    (direct,) = (point for point in whole.points if point.params["nodes"] == 2 and point.params["source"] == "direct")
    assert [rank.host for rank in direct.ranks] == list(ADDRESSES)
    assert direct.metrics["images_per_s_predicted"].value is not None
    old = [trial for trial in journal.trials if trial.failed is None]
    assert list(again.trials[: len(old)]) == old


@pytest.mark.slow
def test_inference_runs_on_hosts_with_a_copy_on_each_machine_that_is_gone_afterwards(
    ssh_hosts: SshHosts, tmp_path: Path, page_set: KnownSet
) -> None:
    config = InferConfig(
        accelerator="0.01",
        batch_sizes=(4,),
        num_ranks=2,
        sources=("direct", "staged"),
        warmup_batches=1,
        batches=8,
        rounds=2,
        prefetch_threads=1,
        queue_depth=2,
        engine="buffered",
    )
    local = tmp_path / "local"
    run = InferRun(page_set.folder, config, local=local, places=Places(TWO, ssh_hosts.ssh))
    outcome = run_infer(run, show=lambda *_: None)
    points = {str(point.params["source"]): point for point in outcome.points}
    assert set(points) == {"direct", "staged", "synthetic"}
    assert all([rank.host for rank in point.ranks] == list(ADDRESSES) for point in points.values())
    assert outcome.workload["hosts"] == list(ADDRESSES)
    assert not local.exists(), "the copy is gone, and the folder that was made for it"


@pytest.mark.slow
def test_a_grid_reads_local_copies_on_its_hosts(ssh_hosts: SshHosts, tmp_path: Path, page_set: KnownSet) -> None:
    asked = {"nodes": (1, 2), "gpus": (1,), "sources": ("staged",), "repeats": 1, "steps": 4, "rounds": 1}
    config = ScaleConfig.model_validate({**asked, "accelerator": "0.02", "batch_size": 4})
    journal, local = GridJournal(tmp_path, {}, resume=False), tmp_path / "local"
    told: dict[str, Any] = {"show": lambda *_: None, "hosts": TWO, "ssh": ssh_hosts.ssh}
    outcome = grid_outcome(run_grid(page_set.folder, config, journal, local=local, **told))
    (staged,) = (point for point in outcome.points if point.params["nodes"] == 2 and point.params["source"] == "staged")
    assert [rank.host for rank in staged.ranks] == list(ADDRESSES)
    assert not local.exists()


@pytest.mark.slow
def test_emulated_and_real_training_run_on_hosts_with_copies_on_each(
    ssh_hosts: SshHosts, tmp_path: Path, page_set: KnownSet
) -> None:
    places, local = Places(TWO, ssh_hosts.ssh), tmp_path / "local"
    emulated = run_train(
        page_set.folder,
        TrainConfig(rounds=2),
        num_ranks=2,
        accelerator="0.01",
        batch_size=4,
        steps=3,
        source="staged",
        engine="buffered",
        local=local,
        seconds=60,
        show=lambda *_: None,
        hops=True,
        places=places,
    )
    config = RealConfig(num_classes=1000, crop=32, reader_threads=1)
    real = run_real(
        RealRun(page_set.folder, config, "resnet18", "cpu", 2, 3, batch_size=2, local=local, places=places),
        show=lambda *_: None,
    )
    hops = {point.params["hop"] for point in emulated.points if point.params["stage"] == "hop"}
    assert hops == {"synthetic", "host", "warm", "direct", "staged"}
    for outcome in (emulated, real):
        assert [rank.host for rank in outcome.best.ranks] == list(ADDRESSES)
        assert outcome.workload["hosts"] == list(ADDRESSES)
    assert real.best.read_path is not None
    assert not local.exists()


def test_a_copy_that_cannot_be_made_on_a_host_stops_before_any_rank_runs(
    ssh_hosts: SshHosts, tmp_path: Path, page_set: KnownSet
) -> None:
    (tmp_path / "file").touch()
    places = Places(TWO, ssh_hosts.ssh)
    with (
        pytest.raises(LaunchError, match="file"),
        places.copies(page_set.folder, tmp_path / "file" / "copy", num_ranks=2, show=lambda *_: None),
    ):
        pytest.fail("there is no copy")


def test_clients_of_a_sweep_run_on_hosts_and_each_rate_is_told(
    ssh_hosts: SshHosts, tmp_path: Path, page_set: KnownSet
) -> None:
    config = StorageConfig.model_validate({"engine": "buffered", "block_size": "64K", "seconds": 0.2, "blocks": 2})
    outcome = measure_storage(page_set.folder, config, show=lambda *_: None, hosts=TWO, ssh=ssh_hosts.ssh)
    (point,) = outcome.points
    assert not outcome.failed
    assert [rank.host for rank in point.ranks] == list(ADDRESSES)
    rates = [rank.metrics["read_gbps"].value for rank in point.ranks]
    assert point.metrics["read_gbps"].value == pytest.approx(sum(rate for rate in rates if rate is not None))
    assert outcome.workload["clients"] == 2
    adaptive = config.model_copy(update={"adaptive": True})
    with pytest.raises(WorkloadUsageError, match="leave --hosts out"):
        measure_storage(page_set.folder, adaptive, show=lambda *_: None, hosts=TWO, ssh=ssh_hosts.ssh)


def _start_launch(folder: Path, hosts: SshHosts) -> subprocess.Popen[str]:
    """A process that launches a rank that waits on either host, which both are under way."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from iobench.storage_bench.launching.hosts import parse_hosts\n"
        "from iobench.storage_bench.launching.launch import LaunchError, launch_ranks\n"
        "try:\n"
        "    launch_ranks('rank_waits', {}, num_ranks=2, folder=Path(sys.argv[1]), timeout_s=60,\n"
        f"                 hosts=parse_hosts('127.0.0.2:1,127.0.0.3:1'), ssh={hosts.ssh!r})\n"
        "except (LaunchError, KeyboardInterrupt) as error:\n"
        "    print(repr(error))\n"
    )
    environment = {**os.environ, "AWS_SECRET_ACCESS_KEY": SECRET}
    launcher = subprocess.Popen(
        [sys.executable, "-c", code, folder], stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    files = [folder / "progress.jsonl", folder / "rank-1.pid"]
    assert _wait_until(lambda: all(file.exists() for file in files)), (folder / "launch.log").read_text()
    return launcher


def _named(name: str, launcher: int, hosts: SshHosts) -> int:
    """The process of this name, below the launcher or on the hosts."""
    import psutil

    pids = [each.pid for each in psutil.Process(launcher).children(recursive=True)] + list(hosts.processes())
    return next(pid for pid in pids if Path(f"/proc/{pid}/comm").read_text().strip() == name)
