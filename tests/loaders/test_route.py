"""The way a loader's bytes took: what its evidence says, and what a required route holds it to."""

import pytest
import torch

from iobench.loaders import DataLoader, ShardSet, route
from iobench.loaders.engines.readers import BufferedReader, ReadError
from iobench.loaders.evidence import counter_for
from iobench.loaders.page_cache import evict
from iobench.loaders.route import MAX_SAMPLED_SHARDS, EvidenceError, RouteError, RouteRefusedError, RouteWatch

PAYLOAD_BYTES = 130 * 35 * 35 * 3


class Counting(BufferedReader):
    """Reads as ever, and says that the bytes came by the backends named, one half each where there are two."""

    def __init__(self, *backends: str) -> None:
        super().__init__()
        self._backends = backends

    def counters(self) -> dict[str, int]:
        share = self.delivered_bytes // len(self._backends)
        return {f"kvikio_{name}_bytes": share for name in self._backends} | {"kvikio_posix_ops": 3}


def open_with(known, reader: BufferedReader, required: str | None) -> ShardSet:
    found = ShardSet.open(known.folder)
    return ShardSet(found.paths, found.index, reader, require_route=required)


@pytest.fixture
def exact_counter(page_set) -> None:
    counter = counter_for(page_set.shards)
    if counter.counter_class != "exact":
        pytest.skip(f"the test data lie where nothing counts: {counter.reason}")


def test_evidence_counts_from_the_loaders_first_epoch_on(page_set):
    shards = ShardSet.open(page_set.folder)
    list(DataLoader(shards, batch_size=30))  # another loader over the same set
    loader = DataLoader(shards, batch_size=30)
    for epochs in (1, 2):
        list(loader)
        found = loader.evidence()
        assert found.payload_bytes == epochs * PAYLOAD_BYTES
        assert found.delivered_bytes == loader.tally.delivered_bytes
        assert found.counters["cache_sampled_shards"] == 4
        assert found.counters["background_bytes"] is None  # nobody asked for it


@pytest.mark.usefixtures("exact_counter", "direct_io")
def test_direct_reads_are_seen_by_the_device(page_set):
    loader = DataLoader(ShardSet.open(page_set.folder, engine="direct", require_route="host"), batch_size=30)
    list(loader)
    found = loader.evidence()
    assert (found.requested_route, found.observed_route) == ("host", "host")
    assert found.device_bytes >= 0.98 * found.delivered_bytes
    assert found.invalid_reason() is None


def test_the_resident_share_is_that_before_the_first_epoch(page_set, copied):
    known = copied(page_set)
    loader = DataLoader(ShardSet.open(known.folder), batch_size=30)
    for path in known.shards:
        path.read_bytes()
    list(loader)
    if loader.evidence().cache_fraction is None:
        pytest.skip("this kernel does not tell what is resident")
    assert loader.evidence().cache_fraction == 1.0
    cold = DataLoader(ShardSet.open(known.folder), batch_size=30)
    evict(known.shards)
    list(cold)
    assert cold.evidence().cache_fraction < 0.5


def test_a_background_is_measured_when_asked_and_only_while_nothing_is_read(page_set):
    shards = ShardSet.open(page_set.folder)
    loader = DataLoader(shards, batch_size=30)
    list(loader)
    found = loader.evidence(background_s=0.01)
    if counter_for(page_set.shards).counter_class == "exact":
        assert found.counters["background_bytes"] is not None

    class Busy(BufferedReader):
        """Somebody reads with it all the time."""

        @property
        def delivered_bytes(self) -> int:
            self._told = getattr(self, "_told", 0) + 1
            return self._told

        @delivered_bytes.setter
        def delivered_bytes(self, value: int) -> None:
            pass

    busy = DataLoader(ShardSet(shards.paths, shards.index, Busy()), batch_size=30)
    list(busy)
    with pytest.raises(EvidenceError, match="this loader read on while the background was measured"):
        busy.evidence(background_s=0.01)


def test_of_very_many_shards_a_sample_is_asked_what_is_resident(page_set):
    shards = ShardSet.open(page_set.folder)
    shards.paths = [page_set.shards[0]] * (3 * MAX_SAMPLED_SHARDS + 1)
    watch = RouteWatch(shards)
    loader = DataLoader(ShardSet.open(page_set.folder))
    assert watch.evidence(loader.tally).counters["cache_sampled_shards"] == 193


def test_of_large_shards_a_piece_of_each_is_asked_and_the_pieces_reach_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(route, "SAMPLED_PIECE_BYTES", 4096)
    asked = []

    def told(path, *, offset: int, length: int) -> int:
        asked.append((offset, length))
        return length

    monkeypatch.setattr(route, "resident_bytes", told)
    paths = [tmp_path / str(number) for number in range(3)]
    for path in paths:
        path.write_bytes(bytes(10 * 4096))
    assert route._resident_share(paths) == 1.0
    assert asked == [(0, 4096), (4 * 4096, 4096), (9 * 4096, 4096)]


def test_a_loop_that_asks_for_no_evidence_does_not_need_a_counter(page_set, monkeypatch):
    def unreadable(paths):
        raise PermissionError(13, "Permission denied", "/sys/dev/block/8:0/stat")

    monkeypatch.setattr(route, "counter_for", unreadable)
    loader = DataLoader(ShardSet.open(page_set.folder), batch_size=30)
    assert len(list(loader)) == 5
    found = loader.evidence()
    assert (found.observed_route, found.device_bytes) == ("unknown", None)
    assert "the device's counter cannot be read: [Errno 13] Permission denied" in found.route_evidence


def test_a_shard_that_is_gone_is_the_readers_error(page_set, copied):
    known = copied(page_set)
    loader = DataLoader(ShardSet.open(known.folder), batch_size=30)
    known.shards[0].unlink()
    with pytest.raises(ReadError, match="cannot be opened: No such file"):
        list(loader)


# --- a required route


@pytest.mark.parametrize(("backends", "seen"), [(["posix"], "host"), (["remote_http"], "remote")])
def test_a_reader_that_counts_by_itself_names_the_route(page_set, backends, seen):
    loader = DataLoader(open_with(page_set, Counting(*backends), None), batch_size=30)
    list(loader)
    found = loader.evidence()
    assert (found.observed_route, found.counter_class) == (seen, "exact")
    backend = backends[0].split("_")[0]
    assert found.route_evidence == f"the reader counted {found.delivered_bytes} bytes by {backend}"
    assert found.counters[f"kvikio_{backends[0]}_bytes"] == found.delivered_bytes


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bytes_that_went_another_way_end_the_epoch_with_an_error(page_set, num_workers):
    shards = open_with(page_set, Counting("remote_http"), "host")
    loader = DataLoader(shards, batch_size=30, num_workers=num_workers)
    batches = iter(loader)
    assert len([next(batches) for _ in range(len(loader))]) == 5
    with pytest.raises(
        RouteError, match=r"require_route='host', but the way of \d+ bytes through buffered was remote"
    ) as it:
        next(batches)
    assert it.value.exit_status == 3
    assert list(batches) == []
    with pytest.raises(RouteError, match="was remote"):
        loader.evidence()


def test_a_way_that_is_not_proven_is_not_the_required_one(page_set):
    loader = DataLoader(open_with(page_set, Counting("gds", "posix"), "host"), batch_size=30)
    with pytest.raises(RouteError, match=r"is not proven \(route not proven: the reader counted \d+ bytes by gds, \d+"):
        list(loader)


def test_the_required_way_ends_the_epoch_as_ever(page_set):
    loader = DataLoader(open_with(page_set, Counting("posix"), "host"), batch_size=30)
    assert len(list(loader)) == len(list(loader)) == 5
    assert loader.evidence().requested_route == "host"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
@pytest.mark.parametrize("required", ["gds", "p2pdma", "bounce"])
def test_a_route_to_a_gpu_is_refused_at_opening_where_there_is_none(page_set, required):
    with pytest.raises(
        RouteRefusedError, match=f"require_route='{required}' is not possible: torch sees no CUDA"
    ) as caught:
        ShardSet.open(page_set.folder, require_route=required)
    assert caught.value.exit_status == 4
    assert isinstance(caught.value, RouteError)


@pytest.mark.parametrize("required", ["unknown", "usb"])
def test_what_is_no_route_cannot_be_required(page_set, required):
    with pytest.raises(ValueError, match=f"require_route '{required}' is not one of host, bounce, gds, p2pdma, remote"):
        ShardSet.open(page_set.folder, require_route=required)
