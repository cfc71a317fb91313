"""The command, end to end on small data: exit status, one JSON document, messages, and nothing left behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from iobench.cli import run

OLD_RECORD = Path(__file__).parent / "results" / "records" / "version-1.json"
SINGLY = ("--set", "threads=1", "--set", "queue_depth=1")


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str

    @property
    def document(self):
        return json.loads(self.out)

    @property
    def message(self):
        """The error of a failed command, which must be the same in the document and on the terminal."""
        error = self.document["error"]
        assert error["exit_status"] == self.status
        assert f"iobench: {error['message']}" in self.err
        assert "Traceback" not in self.err
        return error["message"]


@pytest.fixture
def iobench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Done]]:
    """Runs a command in this process, in a folder of its own, with --json."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("IOBENCH_LOCAL", raising=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*words: object, json_document: bool = True) -> Done:
        capfd.readouterr()
        status = run([*map(str, words), *(["--json"] if json_document else [])])
        said = capfd.readouterr()
        return Done(status, said.out, said.err)

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


def fill(folder: Path) -> None:
    """Write until nothing fits any more."""
    with (folder / "filler").open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 512):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def short(*words: object) -> tuple[object, ...]:
    """Words for blocks as short as can be, with one read at a time."""
    return (*words, "--seconds", "0.05", "--set", "blocks=2", *(SINGLY if words[0] == "storage" else ()))


# --- usage -------------------------------------------------------------------------------------------------------


def test_without_a_command_the_help_is_shown(iobench):
    done = iobench(json_document=False)
    assert done.status == 0
    assert "qualify" in done.out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("nosuch",), "nosuch"),
        (("storage",), "path"),
        (("storage", "x", "--nosuch"), "--nosuch"),
        (("storage", "x", "--seconds", "soon"), "--seconds"),
        (("train", "x", "--np", "0"), "--np"),
        (("generate", "x", "--images", "0"), "num_images"),
        (("generate", "x", "--format", "jpeg"), "format"),
        (("generate", "x", "--workload", "resnet51"), "resnet50, unet3d, cosmoflow"),
        (("generate", "x", "--workload", "unet3d", "--size", "300"), "--size has no meaning beside --workload"),
        (("generate", "x", "--workload", "unet3d", "--scale", "2", "--images", "3"), "one of --scale and --images"),
        (("generate", "x", "--workload", "unet3d", "--scale", "0"), "--scale"),
        (("generate", "x", "--workload", "unet3d", "--record-bytes", "many"), "'many' is no size"),
        (("generate", "x", "--scale", "0.5"), "--scale needs --workload"),
        (("storage", "x", "--block-size", "3K"), "block_size"),
        (("storage", "x", "--engine", "fast"), "engine"),
        (("storage", "x", "--operation", "both"), "'read' or 'write'"),
        (("storage", "x", "--config", "nosuch.toml"), "nosuch.toml"),
        (("storage", "x", "--set", "seed=-1"), "seed"),
        (("qualify", "x", "--preset", "quik"), "'quick'"),
        (("qualify", "x", "--accelerator", "cuda"), "cuda"),
        (("qualify", "x", "--set", "copy.epoch=3"), "'copy.epochs'"),
    ],
)
def test_wrong_usage_is_exit_2_and_names_the_word(iobench, words, named):
    done = iobench(*words)
    assert done.status == 2
    assert named in done.message
    assert not list(Path().iterdir())


def test_a_misspelt_key_in_a_config_names_file_key_and_the_nearest_known_one(iobench):
    Path("mine.toml").write_text("thread = 3\n")
    done = iobench("storage", "x", "--config", "mine.toml")
    assert done.status == 2
    assert done.message == "mine.toml: key 'thread' is not known; the nearest known key is 'threads'"


# --- data and environment ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["storage", "load", "index", "train", "stage"])
def test_a_missing_path_and_an_empty_folder_are_exit_4_with_the_way_out(iobench, command):
    Path("empty").mkdir()
    for path in ("missing", "empty"):
        done = iobench(command, path, *(["copy"] if command == "stage" else []))
        assert done.status == 4
        assert path in done.message
        assert "iobench generate" in done.message
    assert [entry.name for entry in Path().iterdir()] == ["empty"]


@pytest.mark.parametrize("command", ["load", "index", "train", "qualify", "stage"])
def test_a_foreign_file_among_the_shards_is_exit_4_and_named(iobench, copied, page_set, command):
    folder = copied(page_set).folder
    (folder / "notes.txt").write_text("mine")
    done = iobench(command, folder, *(["copy"] if command == "stage" else []))
    assert done.status == 4
    assert "notes.txt" in done.message
    assert not list(Path().iterdir())


@pytest.mark.parametrize("command", ["load", "index", "train", "qualify", "stage"])
def test_a_truncated_shard_is_exit_4_and_named(iobench, copied, page_set, command):
    known = copied(page_set)
    with known.shards[1].open("r+b") as file:
        file.truncate(known.shards[1].stat().st_size - 100)
    done = iobench(command, known.folder, *(["copy"] if command == "stage" else []))
    assert done.status == 4
    assert known.shards[1].name in done.message
    assert not list(Path().iterdir())


def test_a_flipped_byte_is_found_by_verify_with_file_record_and_offset(iobench, copied, page_set):
    known = copied(page_set)
    stride = known.shards[0].stat().st_size // 40
    with known.shards[1].open("r+b") as file:
        file.seek(2 * stride + 1000)
        byte = file.read(1)[0]
        file.seek(2 * stride + 1000)
        file.write(bytes([byte ^ 1]))
    assert iobench("index", known.folder).status == 0
    done = iobench("index", known.folder, "--verify")
    assert done.status == 4
    assert known.shards[1].name in done.message
    assert "record 2" in done.message
    assert f"byte {2 * stride + 12}" in done.message


def test_an_output_folder_that_is_a_file_is_exit_4_before_anything_is_measured(iobench, page_set):
    Path("file").write_text("mine")
    for out in ("file", "file/inside"):
        done = iobench("storage", page_set.folder, "--out", out)
        assert done.status == 4
        assert "--out" in done.message
    assert Path("file").read_text() == "mine"


def test_a_run_is_not_written_among_the_data(iobench, small_set, monkeypatch):
    before = sorted(small_set.iterdir())
    for out in (small_set, small_set / "runs"):
        done = iobench("storage", small_set, "--out", out)
        assert done.status == 2
        assert "among the data" in done.message
    monkeypatch.chdir(small_set)
    assert "among the data" in iobench("qualify", ".").message
    assert sorted(small_set.iterdir()) == before


def test_a_run_may_be_written_below_a_folder_that_lies_beside_the_files_measured(iobench):
    Path("any.bin").write_bytes(os.urandom(1 << 16))
    Path("work").mkdir()
    assert iobench(*short("storage", "."), "--out", "work/run").status == 0


def test_an_image_folder_is_not_given_a_shape_nor_measured_as_a_storage_that_is_wrong_usage(iobench, tmp_path):
    (tmp_path / "images" / "cats").mkdir(parents=True)
    (tmp_path / "images" / "cats" / "1.jpg").write_bytes(b"a cat")
    for words in (("load", "--shape", "2,2,3"), ("index", "--dtype", "uint8"), ("load", "--peers", "torch")):
        done = iobench(words[0], tmp_path / "images", *words[1:])
        assert (done.status, "leave" in done.message) == (2, True), done.message
    done = iobench("storage", tmp_path / "images")
    assert (done.status, "iobench convert" in done.message) == (2, True), done.message


def test_without_a_home_the_local_folder_must_be_named(iobench, small_set, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", staticmethod(no_home))
    words = ("train", small_set, "--accelerator", "0.02", "--batch-size", "4")
    done = iobench(*words, "--source", "staged")
    assert (done.status, "--local" in done.message) == (2, True)


def test_a_full_disk_under_out_is_exit_4_and_keeps_nothing(iobench, page_set, small_disk):
    fill(small_disk)
    before = sorted(small_disk.iterdir())
    done = iobench("storage", page_set.folder, "--out", small_disk / "runs" / "one")
    assert done.status == 4
    assert "No space left" in done.message
    assert "--out" in done.message
    assert sorted(small_disk.iterdir()) == before


def test_a_set_whose_name_is_no_text_is_measured_and_the_record_spells_it(iobench, small_set):
    odd = Path(os.fsdecode(b"na\xefve"))
    shutil.copytree(small_set, odd)
    for command in ("storage", "load"):
        done = iobench(*short(command, odd), "--out", command)
        assert done.status == 0, done.err
        assert done.document["workload"]["path"] == r"na\xefve"
        assert r"na\xefve" in Path(command, "report.html").read_text(encoding="utf-8")
    assert r"na\xefve.gone: no such file" in iobench("index", f"{odd}.gone").message


def test_a_report_that_cannot_be_written_names_the_page_and_not_a_temporary_file(iobench, page_set, small_disk):
    assert iobench(*short("storage", page_set.folder), "--out", "one").status == 0
    fill(small_disk)
    for target in (Path("one"), Path("nosuch/page.html"), small_disk / "page.html"):
        done = iobench("report", "one", "-o", target)
        assert done.status == 4
        assert str(target) in done.message
        assert ".tmp" not in done.message
    assert not (small_disk / "page.html").exists()


def test_a_damaged_record_is_exit_4_and_named(iobench):
    Path("run").mkdir()
    for content in ("", "{", "[]", '{"schema_version": 1}', '{"schema_version": 99}'):
        Path("run/record.json").write_text(content)
        done = iobench("report", "run")
        assert done.status == 4
        assert "record.json" in done.message
    assert iobench("report", "nosuch").status == 4
    assert not Path("report.html").exists()


def test_a_mistake_of_the_program_is_never_exit_1(iobench, monkeypatch):
    monkeypatch.setattr("iobench.storage_bench.doctor.examine", lambda path: 1 / 0)
    done = iobench("doctor")
    assert done.status == 4
    assert done.document["error"]["message"].startswith("internal error: division by zero")


# --- interrupts --------------------------------------------------------------------------------------------------


def test_an_interrupted_command_says_so_in_its_document_and_is_exit_130(tmp_path, page_set):
    words = [sys.executable, "-m", "iobench", "storage", str(page_set.folder), "--seconds", "30", "--json"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert json.loads(out)["error"]["exit_status"] == 130
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


# --- end to end --------------------------------------------------------------------------------------------------


@pytest.fixture
def small_set(iobench) -> Path:
    """200 generated images of 35 x 35 in 4 shards."""
    done = iobench("generate", "data", "--images", "200", "--size", "35", "--images-per-shard", "50", "--seed", "7")
    assert done.status == 0
    assert done.document["num_images"] == 200
    return Path("data").absolute()


def check_record(done: Done, kind: str, *, folder: Path | None = None) -> dict:
    """The document is the record on disk, every metric says all it must, and the page is there."""
    assert done.status == 0, done.err
    record = done.document
    assert record["kind"] == kind
    folder = folder or next(Path("iobench-runs").iterdir())
    assert json.loads((folder / "record.json").read_text()) == record
    page = (folder / "report.html").read_text()
    assert "<html" in page
    groups = [record["metrics"], *(point["metrics"] for point in record["points"])]
    for metrics in groups:
        for name, metric in metrics.items():
            assert metric["unit"], name
            assert {"value", "unit", "ci95", "n", "samples", "reason"} <= metric.keys()
            assert metric["value"] is not None or metric["reason"], name
            assert metric["n"] >= 1 or metric["value"] is None, name
    return record


def test_storage_ends_with_a_record_of_every_point(iobench, small_set):
    done = iobench(*short("storage", small_set), "--engine", "buffered", "--block-size", "4K,16K")
    record = check_record(done, "storage")
    assert [point["params"]["block_size_bytes"] for point in record["points"]] == [4096, 16384]
    assert record["metrics"]["read_gbps"]["value"] > 0
    assert record["read_path"]["delivered_bytes"] > 0
    assert record["workload"]["engine_reasons"] == ["buffered: asked for"]


def test_reads_that_crowd_on_few_blocks_are_told(iobench, small_set):
    done = iobench("storage", small_set, "--seconds", "0.05", "--blocks", "2", "--engine", "buffered")
    assert done.status in (0, 3)  # whether one read finds in memory what another brought there is chance
    assert any("8 reads in flight share 4 blocks of 1 MiB" in text for text in done.document["warnings"])


def test_any_large_file_can_be_measured(iobench):
    Path("any.bin").write_bytes(os.urandom(1 << 20))
    assert iobench(*short("storage", "any.bin"), "--access", "random", "--block-size", "4K").status == 0
    done = iobench(*short("storage", "any.bin"), "--access", "shard-replay")
    assert done.status == 4
    assert "any.bin" in done.message


def test_load_ends_with_images_per_second(iobench, small_set):
    record = check_record(iobench(*short("load", small_set), "--batch-size", "8"), "load")
    assert record["metrics"]["images_per_s"]["value"] > 0
    assert record["points"][0]["params"]["batch_size"] == 8


def test_stage_copies_once_and_says_when_there_was_nothing_to_do(iobench, small_set):
    record = check_record(iobench("stage", small_set, "copy", "--out", "one"), "stage", folder=Path("one"))
    assert record["metrics"]["stage_time_s"]["value"] > 0
    again = check_record(iobench("stage", small_set, "copy", "--out", "two"), "stage", folder=Path("two"))
    assert again["metrics"]["stage_time_s"]["value"] is None
    assert "already" in again["metrics"]["stage_time_s"]["reason"]
    assert iobench("index", "copy", "--verify").status == 0


@pytest.mark.parametrize("source", ["direct", "staged", "synthetic"])
def test_train_of_one_rank_needs_no_horovod_and_leaves_no_copy(iobench, small_set, tmp_path, source):
    words = ("train", small_set, "--np", "1", "--accelerator", "0.02", "--batch-size", "4", "--set", "rounds=2")
    done = iobench(*words, "--source", source, "--local", tmp_path / "local", "--steps", "10")
    record = check_record(done, "train")
    assert {point["params"]["source"] for point in record["points"]} == {source, "synthetic"}
    assert record["metrics"]["au_mlperf"]["value"] > 0
    assert record["summary"][0].startswith(f"1 rank on emulated 0.02 s/step, {source}: ")
    (rank,) = record["ranks"]
    assert rank["pid"] not in (0, os.getpid())
    assert not list((tmp_path / "local").glob("*"))


def test_train_refuses_more_ranks_than_images_and_engines_that_are_not_known(iobench, small_set):
    words = ("train", small_set, "--accelerator", "0.02", "--batch-size", "4")
    done = iobench(*words, "--np", "1", "--engine", "fast")
    assert (done.status, "'fast'" in done.message) == (2, True)
    done = iobench(*words, "--np", "1", "--source", "elsewhere")
    assert (done.status, "elsewhere" in done.message) == (2, True)
    assert iobench(*words, "--np", "1", "--accelerator", "tpu").status == 2


def test_a_failed_copy_for_train_leaves_nothing(iobench, copied, page_set, tmp_path):
    known = copied(page_set)
    assert iobench("index", known.folder).status == 0
    with known.shards[3].open("r+b") as file:
        file.seek(9000)
        file.write(b"\0\1\2")
    words = ("train", known.folder, "--accelerator", "0.02", "--batch-size", "4", "--source", "staged")
    done = iobench(*words, "--local", tmp_path / "local")
    assert done.status == 4
    assert known.shards[3].name in done.message
    assert not list((tmp_path / "local").glob("*"))


@pytest.mark.parametrize("workload", ["unet3d", "cosmoflow"])
def test_samples_of_unequal_size_take_every_command(iobench, workload):
    done = iobench("generate", "data", "--workload", workload, "--images", "12", "--record-bytes", "60000")
    assert done.document["workload"]["scaled"]
    assert f"12 samples of {workload} (scaled: " in done.err
    index = iobench("index", "data", "--verify").document
    assert (index["ragged"], index["num_records"], index["shape"]) == (True, 12, [])
    assert index["verified_bytes"] > 12 * 50_000 * 0.9
    Path("data/.iobench-index").unlink()
    for words in (
        ("storage", "data", "--access", "shard-replay", "--engine", "buffered"),
        ("load", "data", "--batch-size", "3", "--engine", "buffered"),
    ):
        record = check_record(iobench(*short(*words), "--out", words[0]), words[0], folder=Path(words[0]))
        assert record["points"][0]["read_path"]["delivered_bytes"] > 0
    assert iobench("stage", "data", "copy", "--out", "stage").status == 0
    assert iobench("index", "copy", "--verify").status == 0
    train = ("train", "copy", "--np", "1", "--accelerator", "0.001", "--batch-size", "3", "--steps", "4")
    record = check_record(iobench(*train, "--source", "direct", "--out", "train"), "train", folder=Path("train"))
    assert record["workload"]["record_bytes"] > 50_000
    refused = iobench(*short("load", "data", "--peers", "torch", "--out", "peers"))
    assert (refused.status, "samples of unequal size" in refused.message) == (2, True)


def test_several_records_make_one_page(iobench, small_set):
    for out in ("one", "two"):
        assert iobench(*short("storage", small_set), "--engine", "buffered", "--out", out).status == 0
    done = iobench("report", "one", "two/record.json", "-o", "all.html")
    assert (done.status, done.document) == (0, {"report": "all.html"})
    assert Path("all.html").stat().st_size > 10_000


def test_a_misspelt_mount_is_not_made_and_qualified_on_another_disk(iobench):
    done = iobench("qualify", "mnt/bench")
    assert (done.status, "mnt/bench: not there, nor the folder above it; see" in done.message) == (4, True)
    assert not list(Path().iterdir())


def test_an_interrupted_grid_among_several_runs_is_left_out_and_said(iobench):
    Path("runs/two").mkdir(parents=True)
    Path("runs/two/cells.jsonl").touch()
    done = iobench("report", OLD_RECORD, "runs/two", "-o", "all.html")
    assert done.status == 0
    assert "left out: runs/two: an interrupted grid" in done.err
    assert iobench("report", "runs/two", "-o", "all.html").status == 4


def test_doctor_looks_at_a_path_and_answers_in_one_document(iobench, small_set):
    done = iobench("doctor", small_set)
    assert done.status == 0
    assert {row["name"] for row in done.document["findings"]} >= {"file system", "byte counter", "ranks (horovod)"}
