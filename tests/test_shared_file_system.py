"""A real shared file system: GlusterFS, its server and this client on one machine.

It is FUSE over a network that is loopback: no device of this machine is under it, though the brick lies on one.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from iobench.loaders.evidence import counter_for, moved
from iobench.loaders.page_cache import evict
from iobench.storage_bench.evidence import cold_scope_of
from iobench.storage_bench.launching.launch import horovod_available

PORT = 24007  # glusterd's; a client asks there for the brick's
VOLUME = "iobenchtest"
SOCKETS = Path("/var/run/gluster")  # where bricks put theirs, whatever their glusterd's folder
GLUSTERD = """\
volume management
    type mgmt/glusterd
    option working-directory {folder}/lib
    option run-directory {folder}/run
    option transport-type socket
    option transport.socket.listen-port {port}
    option ping-timeout 0
    option event-threads 1
    option max-port 60999
end-volume
"""


class Gluster:
    """A glusterd of its own with one volume, mounted at `mount`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mount = folder, folder / "mount"
        self._host = socket.gethostname()
        self._sockets = set(SOCKETS.glob("*.socket"))
        for name in ("lib", "run", "log", "brick", "mount"):
            (folder / name).mkdir()
        (folder / "glusterd.vol").write_text(GLUSTERD.format(folder=folder, port=PORT))
        places = (f"--volfile={folder}/glusterd.vol", f"--pid-file={folder}/run/glusterd.pid")
        self._daemon = subprocess.Popen(["glusterd", "-N", *places, f"--log-file={folder}/log/glusterd.log"])

    def start(self) -> None:
        """Make and mount the volume; pytest.skip with what GlusterFS said where that does not work."""
        _until(lambda: _answers(self._host), "glusterd does not answer", self._daemon)
        self._command("volume", "create", VOLUME, f"{self._host}:{self.folder}/brick", "force")
        self._command("volume", "start", VOLUME)
        log = f"--log-file={self.folder}/log/mount.log"
        words = ["glusterfs", "--process-name", "fuse", f"--volfile-server={self._host}", f"--volfile-id=/{VOLUME}"]
        subprocess.run([*words, log, self.mount], check=True, timeout=30)
        _until(lambda: os.path.ismount(self.mount), "glusterfs did not mount the volume", self._daemon)

    def stop(self) -> None:
        """Unmount, and end what was started here by its recorded number."""
        subprocess.run(["umount", "-l", self.mount], check=False, capture_output=True)
        for file in (self.folder / "run").rglob("*.pid"):
            with suppress(OSError, ValueError):
                os.kill(int(file.read_text()), 15)
        self._daemon.terminate()
        self._daemon.wait(timeout=10)
        slug = str(self.folder / "brick").strip("/").replace("/", "-")
        Path(f"/var/log/glusterfs/bricks/{slug}.log").unlink(missing_ok=True)
        for left in set(SOCKETS.glob("*.socket")) - self._sockets:
            left.unlink(missing_ok=True)

    def _command(self, *words: str) -> None:
        command = ["gluster", "--mode=script", f"--log-file={self.folder}/log/cli.log", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode:
            pytest.skip(f"gluster {' '.join(words[:2])}: {(done.stderr or done.stdout).strip()}")


@pytest.fixture(scope="module")
def gluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder on GlusterFS."""
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.W_OK):
        pytest.skip("GlusterFS on loopback needs root and /dev/fuse")
    if missing := [name for name in ("glusterd", "gluster", "glusterfs") if shutil.which(name) is None]:
        pytest.skip(f"no {', '.join(missing)} (Debian: glusterfs-server, glusterfs-client)")
    if _answers(socket.gethostname()):
        pytest.skip(f"something listens on port {PORT} already, and is left alone")
    server = Gluster(tmp_path_factory.mktemp("gluster"))
    try:
        server.start()
        yield server.mount
    finally:
        server.stop()


def _answers(host: str) -> bool:
    try:
        with closing(socket.create_connection((host, PORT), timeout=1)):
            return True
    except OSError:
        return False


def _until(holds, otherwise: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.skip(otherwise)
        time.sleep(0.05)


def iobench(cwd: Path, *words: object) -> tuple[int, dict, str]:
    command = [sys.executable, "-m", "iobench", *map(str, words), "--out", "run", "--json"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def is_not_called_a_local_disk(path: dict) -> bool:
    said = path["route_evidence"].startswith(("bounded, not proven: bytes received by", "route not proven: "))
    return said and path["counter_class"] == "bounding" and path["cold_scope"] == "client"


def test_what_is_read_comes_in_over_the_network_with_headers_and_no_more(gluster):
    path = gluster / "file"
    path.write_bytes(os.urandom(16 << 20))
    counter = counter_for([path])
    assert (counter.counter_class, counter.leaves) == ("bounding", ())
    assert cold_scope_of(path) == "client"
    ratios = []
    for _ in range(10):
        evict([path])
        before = counter.snapshot()
        delivered = len(path.read_bytes())
        went = moved(before, counter.snapshot())
        assert went["loopback_received_bytes"] >= delivered
        ratios.append(went["received_bytes"] / delivered)
        if ratios[-1] <= 1.15:
            return
    pytest.skip(f"others used the network all the time: {min(ratios):.2f} bytes received per byte delivered")


def test_storage_does_not_mistake_it_for_a_local_disk(gluster, page_set, tmp_path):
    data = gluster / "pages"
    shutil.copytree(page_set.folder, data, ignore=shutil.ignore_patterns(".*"))
    words = ("--engine", "direct,buffered", "--block-size", "64K", "--seconds", "0.2", "--blocks", "2")
    status, record, _ = iobench(tmp_path, "storage", data, *words)
    assert status == 0, record
    assert record["environment"]["storage"]["fstype"] == "fuse.glusterfs"
    assert record["environment"]["storage"]["devices"] == []
    assert "fuse.glusterfs" in (tmp_path / "run/report.html").read_text()
    assert len(record["points"]) == 2
    for point in record["points"]:
        path = point["read_path"]
        assert is_not_called_a_local_disk(path), path
        assert path["counters"]["loopback_received_bytes"] > 0
        assert path["cache_fraction"] in (0.0, None)


@pytest.mark.slow
@pytest.mark.horovod
def test_the_main_job_runs_on_it_and_names_it(gluster, tmp_path):
    if reason := horovod_available():
        pytest.skip(reason)
    small = ("--accelerator", "0.05", "--batch-size", "8", "--measure-seconds", "10", "--max-ranks", "1")
    sets = (
        *("storage.seconds=0.1", "storage.blocks=2", "train.rounds=1"),
        *("data.num_images=128", "data.images_per_shard=32", "data.size=64"),
    )
    words = [word for setting in sets for word in ("--set", setting)]
    status, record, _ = iobench(tmp_path, "qualify", gluster / "data", *small, *words, "--local", tmp_path / "local")
    assert status in (0, 1, 3), record
    assert record["environment"]["storage"]["fstype"] == "fuse.glusterfs"
    assert "Cold for this client only: fuse.glusterfs" in record["verdict"]["sentence"]
    assert "Route proven" not in record["verdict"]["sentence"]
    on_it = [point for point in record["points"] if point["read_path"] and point["params"].get("source") != "staged"]
    read = [point for point in on_it if point["params"]["stage"] in ("storage", "load", "train")]
    assert {point["params"]["stage"] for point in read} == {"storage", "load", "train"}
    for point in read:
        assert is_not_called_a_local_disk(point["read_path"]), point["read_path"]
