"""`--trace`: a file with every read, wait and step, within bounds; and nothing of it where it is not asked for."""

import json
import signal
from pathlib import Path

import pytest

from iobench.cli import run
from iobench.loaders.buffers import Buffer
from iobench.loaders.engines.readers import DirectReader
from iobench.loaders.traced import Recorder, TracedReader
from iobench.results.record import read_record


@pytest.fixture
def iobench(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*words):
        capfd.readouterr()
        status = run([str(word) for word in words])
        return status, capfd.readouterr().err

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


def events_of(path):
    events = json.loads(Path(path).read_text())["traceEvents"]
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    return [(names[event["tid"]], event) for event in events if event["ph"] == "X"]


LOAD = ("--engine", "buffered", "--batch-size", "4", "--seconds", "0.05", "--set", "blocks=2")


def test_a_trace_of_the_loader_has_every_read_in_its_thread_and_every_wait_of_the_loop(iobench, page_set):
    words = ("--num-workers", "2", "--shuffle", "records", "--trace", "t.json", "--out", "run")
    status, err = iobench("load", page_set.folder, *LOAD, *words)
    assert status == 0, err
    assert "ui.perfetto.dev" in err
    spans = events_of("t.json")
    record = read_record(Path("run"))
    in_threads = [event for track, event in spans if track.startswith("iobench-reader-")]
    delivered = sum(event["args"]["bytes"] for event in in_threads)
    assert delivered >= record.points[0].read_path.delivered_bytes  # what was under way at the end came later
    assert {track for track, _ in spans} == {"the loop", "iobench-reader-0", "iobench-reader-1"}
    assert {event["name"] for track, event in spans if track == "the loop"} == {"wait for a batch", "touch the batch"}
    assert any("trace" in warning for warning in record.warnings)


def test_a_trace_that_cannot_be_written_leaves_the_record(iobench, page_set):
    words = ("--num-workers", "1", "--trace", "/dev/full", "--out", "run")
    status, err = iobench("load", page_set.folder, *LOAD, *words)
    assert status == 4
    assert "iobench: /dev/full: No space left on device; name another place to write to" in err
    assert "The loader hands over" in err
    assert read_record(Path("run")).points
    assert Path("run/report.html").exists()
    assert not Path("/dev/full").is_file()


def test_without_a_trace_no_reader_is_in_the_way(iobench, page_set, monkeypatch):
    monkeypatch.setattr(TracedReader, "__init__", lambda *_: pytest.fail("a reader was traced"))
    assert iobench("load", page_set.folder, *LOAD, "--num-workers", "1")[0] == 0
    assert [path.name for path in Path().iterdir()] == ["iobench-runs"]


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("--trace", "nosuch/t.json"), 4, "nosuch/t.json"),
        (("--trace", "."), 4, "cannot be written"),
        (("--trace", "nosuch/t.json", "--peers", "preadv"), 4, "nosuch/t.json"),
    ],
)
def test_a_trace_that_cannot_be_made_is_refused_before_anything_is_measured(iobench, page_set, words, status, told):
    done, err = iobench("load", page_set.folder, *words)
    assert done == status
    assert told in err
    assert not list(Path().iterdir())


def test_a_trace_of_loaders_side_by_side_has_the_consumer_of_each_and_our_reads(iobench, page_set):
    words = ("--peers", "preadv", "--num-workers", "2", "--page-cache", "warm", "--trace", "t.json", "--out", "run")
    status, err = iobench("load", page_set.folder, *LOAD, *words)
    assert status in (0, 3), err
    events = json.loads(Path("t.json").read_text())["traceEvents"]
    roads = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    tracks = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    spans = [event for event in events if event["ph"] == "X"]
    assert sorted(name.split()[0] for name in roads.values()) == ["iobench", "preadv"]
    for pid, road in roads.items():
        mine = [(tracks[pid, event["tid"]], event["name"]) for event in spans if event["pid"] == pid]
        assert {name for track, name in mine if track == "the consumer"} == {"wait for a batch", "copy the batch"}
        assert any(track.startswith("iobench-reader-") for track, _ in mine) is road.startswith("iobench")
    assert any("trace" in warning for warning in read_record(Path("run")).warnings)


def test_a_trace_of_encoded_images_has_every_decode_in_the_thread_that_made_it(iobench):
    assert iobench("generate", "jpegs", "--format", "tfrecord-jpeg", "--images", 24, "--images-per-shard", 24)[0] == 0
    words = ("--num-workers", "1", "--transform", "validation", "--trace", "t.json")
    status, err = iobench("load", "jpegs", *LOAD, *words)
    assert status == 0, err
    names = [event["name"] for track, event in events_of("t.json") if track == "iobench-reader-0"]
    assert names.count("decode") >= 4
    assert abs(names.count("decode") - names.count("resize and normalise")) <= 1  # the last one was under way
    assert set(names) == {"reads", "decode", "resize and normalise"}


def test_spans_beyond_the_bound_are_counted_and_not_kept(tmp_path):
    (tmp_path / "file").write_bytes(bytes(4096))
    recorder = Recorder(limit=3)
    reader = TracedReader(DirectReader(), recorder)
    memory = Buffer(4096).memory
    for _ in range(5):
        assert reader.read(tmp_path / "file", 0, memory) == 4096
    reader.close()
    assert (len(recorder.spans), recorder.dropped, reader.delivered_bytes) == (3, 2, 5 * 4096)
    assert all(span.end_ns >= span.start_ns and span.num_bytes == 4096 for span in recorder.spans)


def test_a_trace_of_a_rank_has_its_blocks_steps_and_what_they_waited_for(iobench, page_set):
    words = ("--np", "1", "--accelerator", "0.002", "--batch-size", "4", "--steps", "4", "--seconds", "5")
    status, err = iobench("train", page_set.folder, *words, "--trace", "t.json", "--out", "run")
    assert status in (0, 3), err
    spans = events_of("t.json")
    names = [event["name"] for _, event in spans]
    assert {track for track, _ in spans} == {"steps", "iobench-reader-0", "iobench-reader-1"}
    record = read_record(Path("run"))
    in_threads = [event for track, event in spans if track.startswith("iobench-reader-")]
    assert {event["name"] for event in in_threads} == {"reads"}
    direct = [point for point in record.points if point.params["source"] == "direct"]
    assert sum(event["args"]["bytes"] for event in in_threads) >= direct[0].read_path.payload_bytes > 0
    assert any("trace" in warning for warning in record.warnings)
    assert {"direct, 1 ranks, round 0", "synthetic, 1 ranks, round 0", "step 0", "data wait", "compute"} <= set(names)
    assert names.count("compute") == names.count("data wait") == sum(name.startswith("step ") for name in names)
    computed = [event["dur"] for _, event in spans if event["name"] == "compute"]
    assert min(computed) >= 1990  # two milliseconds in microseconds: slept, and so never less
