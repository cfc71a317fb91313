"""Chains: each hop whole before the next begins, everything that can be refused is refused before a byte is copied."""

from pathlib import Path

import pytest

from iobench.loaders.shards import ShardSet
from iobench.storage_bench.staging import StagingError, StagingUsageError, place, stage, stage_chain
from iobench.storage_bench.staging.chain import ChainResult
from iobench.storage_bench.staging.hop import StageResult


@pytest.fixture
def source(copied, page_set) -> Path:
    return copied(page_set).folder


def same_files(source: Path, target: Path) -> bool:
    files = sorted(path.name for path in source.iterdir() if not path.name.startswith("."))
    return files == sorted(path.name for path in target.iterdir() if not path.name.startswith(".")) and all(
        (source / name).read_bytes() == (target / name).read_bytes() for name in files
    )


def fill(disk: Path, *, leave_bytes: int) -> Path:
    """Leave about so many bytes free on a small disk."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        while place.shutil.disk_usage(disk).free > leave_bytes + (64 << 10):
            file.write(bytes(64 << 10))
    return filler


def test_every_hop_holds_the_data_and_has_its_own_figures(source, page_set, tmp_path):
    seen = []
    folders = [tmp_path / name for name in ("shared", "local", "faster")]
    result = stage_chain(source, folders, progress=lambda *told: seen.append(told))
    assert all(same_files(source, folder) for folder in folders)
    assert len(ShardSet.open(result.target)) == len(page_set)
    total = result.total_bytes
    assert [(hop.source, hop.target) for hop in result.hops] == [
        (str(begin), end) for begin, end in zip([source, *folders], folders, strict=False)
    ]
    assert [hop.copied_bytes for hop in result.hops] == [total] * 3
    begun = [(hop, phase) for hop, phase, done, _ in seen if done == 0]
    assert begun == [(hop, phase) for hop in (1, 2, 3) for phase in ("copy", "verify")]
    rates = [total / hop.copy_s / 1e9 for hop in result.hops]
    assert result.seconds_for(7 * total) == pytest.approx(sum(7 * total / 1e9 / rate for rate in rates))


def test_shards_without_a_description_go_down_the_chain_and_are_kept_on_the_way(odd_set, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    stage_chain(odd_set.folder, folders)
    (folders[1] / "part-1.tfrecord").unlink()
    again = stage_chain(odd_set.folder, folders)
    assert [hop.copied_bytes for hop in again.hops] == [0, odd_set.shards[1].stat().st_size]
    assert same_files(odd_set.folder, folders[1])
    assert again.seconds_for(1) is None


@pytest.mark.parametrize(
    ("places", "rule"),
    [
        (["one", "one"], "named twice"),
        (["one", "x/../one"], "named twice"),
        (["one", "one/two"], "lies in"),
        (["one/two", "one"], "lies in"),
        (["."], "lies in"),
        (["one", "copy"], "named twice"),
        (["s3://bucket/set"], "only the source may be an address"),
        (["one", "http://user:hidden@host/x?token=hidden"], "only the source may be an address"),
    ],
)
def test_places_that_make_no_chain_are_wrong_usage_and_nothing_is_copied(source, tmp_path, places, rule):
    """`copy` is the source's own name."""
    targets = [place if "://" in place else tmp_path / place for place in places]
    with pytest.raises(StagingUsageError, match=rule) as caught:
        stage_chain(source, targets)
    assert caught.value.exit_status == 2
    assert "hidden" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_hop_without_room_is_named_before_anything_is_copied(source, tmp_path, small_disk):
    with pytest.raises(StagingError, match=r"disk-0/local: the copy needs .* are free"):
        stage_chain(source, [tmp_path / "shared", small_disk / "local"])
    assert not (tmp_path / "shared").exists()


def test_hops_on_one_disk_need_room_together(source, small_disk, monkeypatch):
    monkeypatch.setattr(place, "RESERVE_BYTES", 0)
    total = sum(path.stat().st_size for path in source.glob("*.tfrecord"))
    fill(small_disk, leave_bytes=total + total // 2)
    with pytest.raises(StagingError, match=r"disk-0/two: the copy needs"):
        stage_chain(source, [small_disk / "one", small_disk / "two"])
    assert not (small_disk / "one").exists()
    assert stage(source, small_disk / "one").copied_bytes == total
    with pytest.raises(StagingError, match=r"disk-0/two: the copy needs"):
        stage_chain(source, [small_disk / "one", small_disk / "two"])


def test_a_hop_that_cannot_be_written_or_holds_other_data_is_named_before_anything_is_copied(source, odd_set, tmp_path):
    (tmp_path / "file").write_text("mine")
    stage(odd_set.folder, tmp_path / "other")
    for last, rule in (("file/copy", "is no folder"), ("other", "not a shard of")):
        with pytest.raises(StagingError, match=rf"hop 2 \(.*shared -> .*{last}\): .*{rule}"):
            stage_chain(source, [tmp_path / "shared", tmp_path / last])
        assert not (tmp_path / "shared").exists()


def test_a_disk_that_fills_up_in_the_second_hop_is_named_with_it_and_the_chain_goes_on_later(
    source, tmp_path, small_disk, monkeypatch
):
    monkeypatch.setattr(place, "RESERVE_BYTES", 0)
    filler = []

    def tell(hop, phase, done, total):
        if hop == 2 and not filler:
            filler.append(fill(small_disk, leave_bytes=total // 2))

    targets = [tmp_path / "shared", small_disk / "local"]
    with pytest.raises(StagingError, match=r"hop 2 \(.*shared -> .*local\): .*No space left"):
        stage_chain(source, targets, streams=1, progress=tell)
    assert same_files(source, targets[0])
    for path in targets[1].iterdir():
        assert (source / path.name).read_bytes() == path.read_bytes()
    filler[0].unlink()
    result = stage_chain(source, targets)
    assert result.hops[0].copied_bytes == 0
    assert same_files(source, targets[1])


def test_an_interrupt_in_any_phase_leaves_whole_shards_only(source, tmp_path, monkeypatch):
    targets = [tmp_path / "shared", tmp_path / "local"]
    for stop in ((1, "copy"), (1, "verify"), (2, "copy"), (2, "verify"), (1, "check")):

        def tell(hop, phase, done, total, stop=stop):
            if (hop, phase) == stop and done:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stage_chain(source, targets, progress=tell)
        for path in (path for target in targets if target.exists() for path in target.iterdir()):
            assert (source / path.name).read_bytes() == path.read_bytes()
    stage_chain(source, targets)
    assert same_files(source, targets[1])


def test_the_time_for_a_larger_set_is_the_sum_of_the_hops_at_their_rates():
    def hop(copied_bytes: int, copy_s: float) -> StageResult:
        return StageResult("a", Path("b"), 1, 10**9, copied_bytes, copy_s, 0.1, 4, False)

    chain = ChainResult("a", (hop(10**9, 2.0), hop(5 * 10**8, 0.25)), None)  # 0.5 and 2 GB/s
    assert chain.seconds_for(4 * 10**9) == pytest.approx(8.0 + 2.0)
    assert "hop 2: 0.50 GB were there already" in chain.warnings()[0]
    assert ChainResult("a", (hop(10**9, 2.0), hop(0, 0.0)), None).seconds_for(1) is None
