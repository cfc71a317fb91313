import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from pydantic import ValidationError

from iobench.cli import run
from iobench.loaders.images.opening import open_decoder
from iobench.loaders.roads.baselines import missing
from iobench.loaders.roads.road import RoadOptions
from iobench.storage_bench import road_process, road_server
from iobench.storage_bench.contest import (
    Contestant,
    best_of,
    interleave,
    open_contest,
    ratio,
    read_ahead_images,
    running,
)
from iobench.storage_bench.generate import GenerateJpeg, generate
from iobench.storage_bench.peers import PeersConfig, PeersError, compare_peers
from iobench.storage_bench.road_process import RoadProcess, RoadProcessError, end_all
from iobench.storage_bench.road_server import RoadBlock
from iobench.storage_bench.workload import WorkloadError

SHORT = {"seconds": 0.03, "blocks": 2, "batch_size": 4}
WARM = {**SHORT, "page_cache": "warm"}


def hide(package, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))


OTHERS: set[int] = set()


@pytest.fixture(autouse=True)
def others():
    """Processes of other tests' session fixtures, a server say, which may be there before a test begins."""
    OTHERS.clear()
    OTHERS.update(child.pid for child in psutil.Process().children(recursive=True))


def processes_below():
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.status() != psutil.STATUS_ZOMBIE and child.pid not in OTHERS]


def block(images, seconds, cpu_s=1.0):
    others = {"storage_bytes": 0, "peak_rss_bytes": 1, "memory_bytes": 1}
    return RoadBlock(images, seconds, cpu_s, total_images=images, total_s=seconds, **others)


@pytest.fixture
def process():
    """A road's process that is not told anything yet."""
    made = RoadProcess("preadv")
    yield made
    end_all([made])


def test_every_road_has_a_point_with_rates_cost_and_memory_and_a_peer_our_ratios_to_it(page_set):
    seen = []
    config = PeersConfig(peers="preadv,tfrecord", **WARM)
    result = compare_peers(page_set.folder, config, on_block=lambda *step: seen.append(step))
    assert [point.params["road"] for point in result.points] == ["iobench", "preadv", "tfrecord"]
    for point in result.points:
        assert (
            point.params.items() >= {"stage": "load", "consumer": "copy", "page_cache": "warm", "batch_size": 4}.items()
        )
        assert point.metrics["images_per_s"].n == 2
        assert point.metrics["images_per_s"].unit == "images/s"
        rates = zip(point.metrics["images_per_s"].samples, point.metrics["read_gbps"].samples, strict=True)
        assert all(gbps == pytest.approx(images * 35 * 35 * 3 / 1e9) for images, gbps in rates)
        assert point.metrics["cpu_seconds_per_gb"].value > 0
        assert point.metrics["peak_rss_bytes"].value > 1e6
        assert point.metrics["memory_bytes"].value is None or point.metrics["memory_bytes"].value > 1e6
        assert point.read_path.page_cache == "warm"
        assert point.read_path.delivered_bytes > point.read_path.payload_bytes
    ours, *peers = result.points
    assert "images_per_s_ratio" not in ours.metrics
    for peer, text in zip(peers, result.sentences, strict=True):
        pairs = zip(ours.metrics["images_per_s"].samples, peer.metrics["images_per_s"].samples, strict=True)
        assert peer.metrics["images_per_s_ratio"].samples == pytest.approx([a / b for a, b in pairs])
        assert f"{peer.metrics['images_per_s_ratio'].value:.2f} (" in text
        assert "cpu_seconds_per_gb_ratio" in peer.metrics
    assert [step[:2] for step in seen] == [(number, 6) for number in range(1, 7)]
    assert {step[2].split()[0] for step in seen[:3]} == {"iobench", "preadv", "tfrecord"}  # a round has each road once
    assert not processes_below()


def test_cold_blocks_begin_without_a_resident_page_and_are_of_one_pass(page_set, direct_io):
    options = RoadOptions(batch_size=4, cold=True)
    contest = open_contest(page_set.folder, options, consumer="touch", seconds=0.2)
    ours = RoadOptions(4, engine="direct", cold=True)
    contestants = [Contestant("preadv", options, contest), Contestant("iobench", ours, contest)]
    evidence = interleave(contestants, blocks=2)
    assert [seen.invalid_reason() for seen in evidence] == [None, None]
    for contestant in contestants:
        assert contestant.cache_fractions in ([0.0, 0.0], [None, None])
        assert all(len(page_set) - 4 < each.total_images <= len(page_set) + 4 for each in contestant.blocks)
        assert all(each.total_images - each.images >= read_ahead_images(options) for each in contestant.blocks)
        read = sum(each.storage_bytes or 0 for each in contestant.blocks)  # 4096 bytes an image, read once
        came = sum(each.total_images for each in contestant.blocks)
        assert not read or abs(read / 4096 - came) <= read_ahead_images(options)


def test_too_few_images_for_cold_blocks_are_refused_with_what_would_do(page_set):
    with pytest.raises(WorkloadError, match=r"130 images are too few for batches of 64, .*; use 1536 images"):
        open_contest(page_set.folder, RoadOptions(batch_size=64, cold=True), consumer="copy", seconds=0.1)


def test_the_best_way_of_torch_is_chosen_from_both_data_sets_and_every_number_of_workers(page_set):
    options = RoadOptions(batch_size=13)
    contest = open_contest(page_set.folder, options, consumer="copy", seconds=0.01)
    best = best_of("torch", options, contest)
    assert (best.options.variant, best.options.threads) in {(v, n) for v in ("map", "iterable") for n in (0, 1, 2)}
    ways = [f"{v}, {n}" for v in ("map", "iterable") for n in ("no workers", "1 worker", "2 workers")]
    assert all(way in best.why for way in ways)
    assert not best.blocks
    assert not processes_below()


def test_a_way_that_fails_is_told_and_one_that_works_is_taken(page_set, monkeypatch):
    if reason := missing("dali"):
        pytest.skip(reason)
    ways = [RoadOptions(batch_size=4, variant="read"), RoadOptions(batch_size=-1, variant="mmap")]
    monkeypatch.setattr("iobench.storage_bench.contest.candidates", lambda name, options: ways)
    contest = open_contest(page_set.folder, ways[0], consumer="copy", seconds=0.01)
    best = best_of("dali", ways[0], contest)
    assert best.options == ways[0]
    assert "mmap, 2 threads failed: road dali: " in best.why


def test_a_peer_that_is_not_installed_is_named_with_the_extra_and_the_others_run(page_set, monkeypatch):
    hide("nvidia.dali", monkeypatch)
    result = compare_peers(page_set.folder, PeersConfig(peers=("dali", "preadv"), **WARM))
    absent = result.points[-1]
    assert absent.params["road"] == "dali"
    assert {metric.value for metric in absent.metrics.values()} == {None}
    assert all("pip install 'iobench[gpu]'" in metric.reason for metric in absent.metrics.values())
    assert [text for text in result.warnings if "NVIDIA DALI is not installed" in text]


def test_without_any_peer_there_is_nothing_to_compare(page_set, monkeypatch):
    hide("tfrecord", monkeypatch)
    with pytest.raises(PeersError, match=r"the tfrecord package is not installed; pip install 'iobench\[dev\]'"):
        compare_peers(page_set.folder, PeersConfig(peers=("tfrecord",), **WARM))


@pytest.mark.parametrize(
    "wrong", [{"peers": ()}, {"peers": ("ffcv",)}, {"peers": ("iobench",)}, {"shuffle": "records"}]
)
def test_what_cannot_be_compared_is_refused(wrong):
    with pytest.raises(ValidationError):
        PeersConfig(**{"peers": ("preadv",), **wrong})


def test_mapped_pages_are_not_compared_cold(page_set):
    config = PeersConfig(peers=("preadv",), engine="mmap", **SHORT)
    with pytest.raises(PeersError, match="compare it warm") as caught:
        compare_peers(page_set.folder, config)
    assert caught.value.exit_status == 2


def test_a_ratio_is_of_pairs_of_blocks_and_its_interval_too(page_set):
    contest = open_contest(page_set.folder, RoadOptions(), consumer="copy", seconds=1.0)
    ours = Contestant("iobench", RoadOptions(), contest, blocks=[block(200, 1.0), block(440, 2.0), block(180, 1.0)])
    theirs = Contestant(
        "dali", RoadOptions(), contest, blocks=[block(100, 1.0), block(110, 1.0), block(90, 1.0, cpu_s=2.0)]
    )
    rate = ratio(ours, theirs, "images_per_s")
    assert rate.samples == (2.0, 2.0, 2.0)
    assert rate.ci95 == pytest.approx((2.0, 2.0))
    assert rate.n == 3
    cost = ratio(ours, theirs, "cpu_seconds_per_gb")  # CPU seconds for each image: 1/200 against 1/100, and so on
    assert cost.samples == pytest.approx((1 / 2, 1 / 4, 1 / 4))


@pytest.mark.parametrize(("at", "rounds"), [pytest.param(3, 1, marks=pytest.mark.slow), (5, 2)])
def test_an_interrupted_contest_keeps_its_whole_rounds(page_set, at, rounds):
    kept = []

    def interrupt(done, *_):
        if done == at:  # one block into a round
            raise KeyboardInterrupt

    config = PeersConfig(peers="preadv", **{**WARM, "blocks": 6})
    with pytest.raises(KeyboardInterrupt):
        compare_peers(page_set.folder, config, on_block=interrupt, keep=kept.append)
    (result,) = kept
    ours, theirs = (point.metrics["images_per_s"] for point in result.points)
    ratio_to_it = result.points[1].metrics["images_per_s_ratio"]
    assert ours.n == theirs.n == ratio_to_it.n == rounds
    assert ratio_to_it.samples == tuple(a / b for a, b in zip(ours.samples, theirs.samples, strict=True))
    assert (ratio_to_it.ci95 is None) == (rounds == 1)
    assert not processes_below()


@pytest.mark.slow
def test_a_contest_that_is_interrupted_in_its_first_round_keeps_nothing(page_set):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_peers(page_set.folder, PeersConfig(peers="preadv", **WARM), on_block=interrupt, keep=pytest.fail)


def test_the_copying_consumer_copies_every_byte_of_views_and_of_lists_of_them():
    random = np.random.default_rng(0)
    framed = random.integers(0, 256, (5, 100), dtype=np.uint8)
    images = np.ndarray((5, 4, 5, 3), np.uint8, framed.data, 7, (100, 15, 3, 1))
    for given in (images, list(images), images[:3]):
        consume = road_server._Copy(5, (4, 5, 3))
        consume(given)
        assert np.array_equal(consume._target[: len(given)], np.stack(given))


def test_cpu_time_is_that_of_the_process_its_threads_and_its_children():
    spin = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    child = subprocess.Popen([sys.executable, "-c", spin], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        child.stdout.readline()
        tree = road_server._tree()
        assert {os.getpid(), child.pid} <= set(tree)
        assert road_server._cpu_s([child.pid]) >= 0.3
        assert road_server._cpu_s([os.getpid()]) == pytest.approx(time.process_time(), abs=0.1)
    finally:
        child.communicate()


def test_what_storage_read_is_what_the_process_and_its_children_asked_of_it(page_set, direct_io):
    read = (
        "import mmap, os, sys\n"
        "file = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)\n"
        "os.preadv(file, [mmap.mmap(-1, 65536)], 0)\n"
        "print(flush=True)\ninput()"
    )
    words = [sys.executable, "-c", read, str(page_set.shards[0])]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        child.stdout.readline()
        counted = road_server._storage_bytes([child.pid])
        assert counted is None or counted >= 65536
    finally:
        child.communicate()
    assert road_server._storage_bytes([child.pid]) is None


def test_memory_is_that_of_the_process_and_its_children():
    hold = "memory = bytearray(64 << 20)\nprint(flush=True)\ninput()"
    child = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        child.stdout.readline()
        alone, both = (road_server._memory_bytes(tree) for tree in ([os.getpid()], [os.getpid(), child.pid]))
        assert alone is None or both - alone >= 64 << 20
        assert road_server._status_kib(child.pid, "status", ("VmHWM",)) >= 64 << 10
    finally:
        child.communicate()


def test_an_error_in_a_road_is_raised_with_its_exit_status(process, page_set, tmp_path):
    with pytest.raises(RoadProcessError, match="road preadv: road 'ffcv' is not known") as caught:
        process.open("ffcv", page_set.shards, RoadOptions())
    assert caught.value.exit_status == 2
    with pytest.raises(RoadProcessError, match="nothing") as caught:
        process.open("preadv", [tmp_path / "nothing.tfrecord"], RoadOptions())
    assert caught.value.exit_status == 4
    assert process.open("preadv", page_set.shards, RoadOptions(batch_size=4))[1] == "reused"


def test_a_road_that_dies_is_told_with_its_signal(process, page_set):
    process.open("preadv", page_set.shards, RoadOptions(batch_size=4))
    process._process.kill()
    with pytest.raises(RoadProcessError, match="its process was killed by SIGKILL"):
        process.run(consumer="copy", seconds=0.1, ramp_s=0.0, ramp_images=0, most_images=None)


def test_a_road_that_hangs_is_given_up_and_killed(page_set, monkeypatch):
    monkeypatch.setattr(road_process, "ANSWERS_WITHIN_S", 0.2)
    monkeypatch.setattr(road_process, "ENDS_WITHIN_S", 0.2)
    with running(["preadv"]) as (process,):
        process._process.send_signal(signal.SIGSTOP)
        with pytest.raises(RoadProcessError, match="did not answer within 0 s"):
            process.open("preadv", page_set.shards, RoadOptions(batch_size=4))
    assert not processes_below()


def test_what_a_library_prints_does_not_disturb_the_answers(page_set, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('hello from a library')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    program = (
        "import sys; from pathlib import Path; from iobench.loaders.roads.road import RoadOptions;"
        "from iobench.storage_bench.contest import running\n"
        "with running(['preadv']) as (process,):\n"
        "    paths = sorted(Path(sys.argv[1]).glob('*.tfrecord'))\n"
        "    print(process.open('preadv', paths, RoadOptions(batch_size=4))[1])\n"
    )
    words = [sys.executable, "-c", program, str(page_set.folder)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["hello from a library", "reused"], done.stderr


def test_a_road_ends_with_the_one_that_compares_even_when_that_is_killed(page_set):
    program = (
        "import sys, time; from pathlib import Path; from iobench.loaders.roads.road import RoadOptions;"
        "from iobench.storage_bench.road_process import RoadProcess\n"
        "process = RoadProcess('preadv')\n"
        "process.open('preadv', sorted(Path(sys.argv[1]).glob('*.tfrecord')), RoadOptions(batch_size=4))\n"
        "print(process._process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    words = [sys.executable, "-c", program, str(page_set.folder)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as comparing:
        road = psutil.Process(int(comparing.stdout.readline()))
        comparing.kill()
    assert not psutil.wait_procs([road], timeout=10)[1]


def test_ctrl_c_ends_a_comparison_with_130_and_leaves_no_process(page_set, tmp_path):
    words = [sys.executable, "-m", "iobench", "load", str(page_set.folder), "--peers", "preadv", "--batch-size", "4"]
    words += ["--page-cache", "warm", "--seconds", "30", "--out", str(tmp_path / "run")]
    comparing = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        below: list[psutil.Process] = []
        deadline = time.monotonic() + 60
        while len(below) < 2 and time.monotonic() < deadline:
            below = psutil.Process(comparing.pid).children()
            time.sleep(0.05)
        comparing.send_signal(signal.SIGINT)
        said = comparing.communicate(timeout=30)[1]
    finally:
        comparing.kill()
    assert comparing.returncode == 130, said
    assert "Traceback" not in said
    assert not psutil.wait_procs(below, timeout=5)[1]
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jpeg") / "data"
    generate(folder, GenerateJpeg(num_images=24, images_per_shard=12))
    return folder


def test_roads_over_encoded_images_are_compared_by_what_they_make_of_them(jpegs):
    peers = tuple(name for name in ("torch", "dali") if missing(name) is None)
    config = PeersConfig(peers=peers, transform="validation", image_size=32, num_workers=1, consumer="copy", **WARM)
    result = compare_peers(jpegs, config)
    assert [point.params["road"] for point in result.points] == ["iobench", *peers]
    for point in result.points:
        assert point.params.items() >= {"transform": "validation", "image_size": 32, "shuffle": "off"}.items()
        assert point.metrics["images_per_s"].value > 0
        assert point.read_path.delivered_bytes > point.read_path.payload_bytes > 0
    ours, *others = result.points
    assert all(point.metrics["images_per_s_ratio"].n == 2 for point in others)
    busy = [ours.metrics[f"{hop}_threads"].value for hop in ("read", "decode", "augment")]
    assert all(value > 0 for value in busy)
    assert "decode_threads" not in others[0].metrics
    assert result.images["decoder"].startswith(f"{open_decoder('auto')[0].name} ")
    assert result.sentences[-1] == result.images["sentence"]
    torchs = next(road for road in result.roads if road["road"] == "torch")
    assert torchs["why"].startswith("the fastest of 1 worker")
    assert "with Pillow" in torchs["version"]
    assert not processes_below()


def test_roads_that_decode_nothing_are_refused_for_encoded_images(jpegs):
    with pytest.raises(PeersError, match="preadv, tfrecord would hand out as they are; compare with torch or dali"):
        compare_peers(jpegs, PeersConfig(peers="preadv,torch,tfrecord", **WARM))


@pytest.fixture
def handlers():
    """Puts back what the command does with signals."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_command_writes_a_record_and_a_table(page_set, tmp_path, capfd, handlers):
    flags = ["--peers", "preadv", "--page-cache", "warm", "--seconds", "0.02", "--batch-size", "4", "--json"]
    status = run(["load", str(page_set.folder), *flags, "--set", "blocks=2", "--out", str(tmp_path / "run")])
    said = capfd.readouterr()
    record = json.loads(said.out)
    assert status in (0, 3), said.err  # 3: somebody else reads from this disk meanwhile
    assert record == json.loads(Path(tmp_path / "run" / "record.json").read_text())
    assert [point["params"]["road"] for point in record["points"]] == ["iobench", "preadv"]
    assert record["metrics"] == record["points"][0]["metrics"]
    assert [road["road"] for road in record["workload"]["roads"]] == ["iobench", "preadv"]
    assert "Loaders side by side" in said.err
    assert "preadv" in (tmp_path / "run" / "report.html").read_text()


def test_the_command_names_the_known_peers_for_an_unknown_one(page_set, capfd, handlers):
    assert run(["load", str(page_set.folder), "--peers", "dali,ffcv"]) == 2
    assert "'ffcv' is not known; known peers are preadv, torch, tfrecord, dali" in capfd.readouterr().err
