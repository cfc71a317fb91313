"""Where reader threads of one process stand: as asked, near the GPU, or at the network card."""

import os

import pytest
from pydantic import TypeAdapter, ValidationError

from iobench.loaders import DataLoader, ShardSet, network_card
from iobench.loaders.nearness import Near
from iobench.loaders.remote import RemotePath
from iobench.loaders.topology import CoresError, format_cores
from iobench.storage_bench import placement
from iobench.storage_bench.load import LoadConfig, measure_load
from iobench.storage_bench.placement import Placement, near_readers

CORES = sorted(os.sched_getaffinity(0))
OBJECT = RemotePath("http://127.0.0.1:9/x")


@pytest.mark.parametrize(("given", "text"), [("auto", "auto"), ("0-3;4-7", "0-3;4-7"), (3, "3")])
def test_a_placement_is_a_word_or_lists_of_cores_or_one_core(given, text):
    assert TypeAdapter(Placement).validate_python(given) == text


@pytest.mark.parametrize("given", ["near", "", "3-1", True, None, -1])
def test_what_is_no_placement_is_refused(given):
    with pytest.raises(ValidationError):
        TypeAdapter(Placement).validate_python(given)


def test_readers_into_memory_stand_at_the_card_unless_they_decode(monkeypatch, tmp_path):
    at_card = Near(frozenset({5}), 1, "at the card")
    monkeypatch.setattr(placement, "near_network", lambda place: at_card if place == OBJECT.url else None)
    assert near_readers("auto", gpu=None, sample=OBJECT, encoded=False) == at_card
    assert near_readers("auto", gpu=None, sample=OBJECT, encoded=True).reason == (
        "images are decoded, which takes all cores"
    )
    assert not near_readers("off", gpu=None, sample=OBJECT, encoded=False).cores


def test_files_of_this_host_leave_readers_as_they_are(tmp_path):
    near = near_readers("auto", gpu=None, sample=tmp_path, encoded=False)
    assert near == network_card.near_network(tmp_path)
    assert not near.cores


def test_cores_that_may_not_be_used_are_refused(tmp_path):
    with pytest.raises(CoresError, match="may not be used here"):
        near_readers(str(CORES[-1] + 500), gpu=None, sample=tmp_path, encoded=False)


def test_a_loads_readers_are_seen_where_they_were_asked_to_stand(page_set):
    config = LoadConfig(batch_size=16, seconds=0.05, blocks=2, num_workers=2, placement=str(CORES[-1]))
    others = DataLoader(ShardSet.open(page_set.folder), batch_size=16, num_workers=3)
    left = iter(others)
    next(left)  # its threads run on, and are none of the load's
    placed = measure_load(page_set.folder, config).chosen["placed"]
    assert placed["cores"] == str(CORES[-1])
    assert placed["readers"] == {str(CORES[-1]): 2}
    free = measure_load(page_set.folder, config.model_copy(update={"placement": "auto"})).chosen["placed"]
    assert (free["cores"], free["readers"]) == (None, {format_cores(CORES): 2})
