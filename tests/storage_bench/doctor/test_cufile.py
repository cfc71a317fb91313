"""cuFile's configuration: JSON with comments, its defaults, what the environment changes, and where mistakes stand."""

import json
from pathlib import Path

import pytest

from iobench.storage_bench.doctor.cufile import (
    CufileConfigError,
    configuration,
    look_at_configuration,
    parse,
    read_configuration,
)

AS_INSTALLED = """{
    // NOTE : Application can override custom configuration via export CUFILE_ENV_PATH_JSON=<filepath>
    "logging": {
        // log directory
        //"dir": "/home/<xxxx>",
        "level": "ERROR"
    },
    "properties": {
        "max_direct_io_size_kb": 16384, /* of one
           request */
        "allow_compat_mode": false,
        "use_pci_p2pdma": true, // a comma before a comment, and then the end
    },
    "fs": { "generic": { "note": "a // in a string, and a /* too, }" } },
}
"""


@pytest.fixture
def named(tmp_path, monkeypatch):
    """Writes a configuration and names it in the environment, which else says nothing of cuFile."""
    for word in ("ALLOW_COMPAT_MODE", "FORCE_COMPAT_MODE", "USE_PCIP2PDMA", "ENV_PATH_JSON"):
        monkeypatch.delenv(f"CUFILE_{word}", raising=False)

    def write(text: str) -> Path:
        (tmp_path / "cufile.json").write_text(text)
        monkeypatch.setenv("CUFILE_ENV_PATH_JSON", str(tmp_path / "cufile.json"))
        return tmp_path / "cufile.json"

    return write


def test_comments_and_trailing_commas_are_read_over_and_strings_are_left_alone():
    assert parse(AS_INSTALLED) == {
        "logging": {"level": "ERROR"},
        "properties": {"max_direct_io_size_kb": 16384, "allow_compat_mode": False, "use_pci_p2pdma": True},
        "fs": {"generic": {"note": "a // in a string, and a /* too, }"}},
    }


@pytest.mark.parametrize("text", ["{}", '{"a": [1, 2, {"b": "\\"//\\""}], "c": null}', '{"url": "http://x/*y*/,]"}'])
def test_plain_json_means_what_it_always_means(text):
    assert parse(text) == json.loads(text)


def test_what_is_installed_is_understood(named):
    found = read_configuration(named(AS_INSTALLED))
    assert (found.allow_compat, found.force_compat, found.use_p2pdma, found.log_level) == (False, False, True, "ERROR")


def test_p2pdma_of_nvme_alone_counts(named):
    assert read_configuration(named('{"block": {"nvme": {"use_pci_p2pdma": true}}}')).use_p2pdma


@pytest.mark.parametrize("text", ["", "{", '{\n "a": 1\n "b": 2\n}', "[]", "\x00"])
def test_a_damaged_file_is_named_with_the_line(named, text):
    path = named(text)
    with pytest.raises(CufileConfigError, match="line"):
        read_configuration(path)
    seen = look_at_configuration(Path("/"))
    assert seen.available is False
    assert str(path) in seen.text
    assert seen.advice


def test_the_line_of_a_mistake_is_that_of_the_file(named):
    text = '{ /* one\n two */\n // three\n "a": 1\n "b": 2 }'
    with pytest.raises(CufileConfigError, match="line 5"):
        read_configuration(named(text))


def test_a_named_file_that_is_not_there_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("CUFILE_ENV_PATH_JSON", str(tmp_path / "nosuch.json"))
    assert "nosuch.json" in look_at_configuration(Path("/")).text


def test_the_environment_wins_over_the_file(named, monkeypatch):
    named(AS_INSTALLED)
    monkeypatch.setenv("CUFILE_ALLOW_COMPAT_MODE", "true")
    monkeypatch.setenv("CUFILE_USE_PCIP2PDMA", "0")
    found = configuration()
    assert (found.allow_compat, found.use_p2pdma) == (True, False)


def test_host_memory_by_force_closes_the_direct_ways(named):
    named('{"properties": {"force_compat_mode": true}}')
    seen = look_at_configuration(Path("/"))
    assert seen.available is False
    assert "force_compat_mode" in seen.text
