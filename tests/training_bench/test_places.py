"""Where ranks run and their copies lie: here, on hosts, and never in a folder that several machines share."""

import pytest

from iobench.loaders.discovery import ShardSetError
from iobench.storage_bench.launching.hosts import HostsError, parse_hosts
from iobench.storage_bench.launching.ranks import SingleRank
from iobench.storage_bench.staging import StagingError
from iobench.training_bench.copy_rank import _mark, _require_own, main
from iobench.training_bench.places import Places


def nowhere(*_):
    """Shows nothing."""


def interrupt(*_):
    raise KeyboardInterrupt


def test_ranks_fill_hosts_one_after_the_other():
    places = Places(parse_hosts("a:3,b:2"))
    assert [places.most_on_a_host(count) for count in (1, 2, 3, 4, 5)] == [1, 2, 3, 3, 3]
    assert [host.name for host in places.of(3)] == ["a"]
    assert [host.name for host in places.of(4)] == ["a", "b"]
    with pytest.raises(HostsError, match="6 ranks do not fit"):
        places.of(6)


def test_without_hosts_all_ranks_are_here():
    assert Places().most_on_a_host(4) == 4
    assert Places().of(4) == ()


def test_a_copy_is_there_as_long_as_it_is_needed_and_gone_after_an_error_too(page_set, tmp_path):
    folder = tmp_path / "copy"
    with Places().copies(page_set.folder, folder, num_ranks=1, show=nowhere):
        names = [path.name for path in page_set.shards]
        assert [path.read_bytes() for path in sorted(folder.glob("*.tfrecord"))] == [
            (page_set.folder / name).read_bytes() for name in names
        ]
    assert not folder.exists()
    with (
        pytest.raises(RuntimeError, match="of a rank"),
        Places().copies(page_set.folder, folder, num_ranks=1, show=nowhere),
    ):
        raise RuntimeError("of a rank")
    assert not folder.exists()


def test_folders_that_are_made_for_a_copy_go_with_it_and_others_stay(page_set, tmp_path):
    there, folder = tmp_path / "there", tmp_path / "there" / "new" / "deep" / "copy"
    there.mkdir()
    with Places().copies(page_set.folder, folder, num_ranks=1, show=nowhere):
        assert folder.is_dir()
    assert not list(there.iterdir())
    with pytest.raises(KeyboardInterrupt), Places().copies(page_set.folder, folder, num_ranks=1, show=interrupt):
        raise AssertionError("its copy was interrupted")
    assert there.is_dir()
    assert not list(there.iterdir())
    with Places().copies(page_set.folder, folder, num_ranks=1, show=nowhere):
        (there / "new" / "mine").touch()
    assert [path.name for path in (there / "new").iterdir()] == ["mine"]


def test_what_lies_on_other_hosts_only_is_counted_by_nothing_here(page_set, tmp_path):
    found = Places().counters({"direct": page_set.folder, "staged": tmp_path / "elsewhere"})
    assert found["staged"].counter_class == "none"
    assert "other hosts" in found["staged"].reason
    assert "other hosts" not in found["direct"].reason


def test_a_rank_copies_and_removes(page_set, tmp_path):
    target = tmp_path / "new" / "copy"
    main({"source": str(page_set.folder), "target": str(target)}, SingleRank())
    assert len(list(target.glob("*.tfrecord"))) == len(page_set.shards)
    assert [path.name for path in target.parent.iterdir() if not path.name.endswith("-made")] == ["copy"]
    main({"source": None, "target": str(target)}, SingleRank())
    assert not list(tmp_path.iterdir())


def test_a_rank_whose_copy_fails_leaves_a_note_of_what_it_made_and_removing_ends_both(page_set, tmp_path):
    target = tmp_path / "new" / "copy"
    with pytest.raises(ShardSetError, match="elsewhere: no such file"):
        main({"source": str(page_set.folder / "elsewhere"), "target": str(target)}, SingleRank())
    assert (tmp_path / "new").is_dir()
    main({"source": None, "target": str(target)}, SingleRank())
    assert not list(tmp_path.iterdir())
    main({"source": None, "target": str(target)}, SingleRank())  # of hosts whose copy was never begun


def test_a_folder_in_which_another_machine_leaves_its_mark_is_refused(tmp_path):
    target = tmp_path / "copy"
    _require_own(target, "mine", {"mine", "theirs"}, SingleRank())  # of whom nothing is seen here
    assert not list(tmp_path.iterdir())
    _mark(target, "theirs").touch()
    with pytest.raises(StagingError, match="a copy there is no local one"):
        _require_own(target, "mine", {"mine", "theirs"}, SingleRank())
    assert not _mark(target, "mine").exists()
