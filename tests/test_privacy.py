"""What runs write, in every format, tells nothing of who ran them: tell-tale surroundings, and a search for them."""

import os
import pwd
import signal
from pathlib import Path

import pytest

from iobench.cli import run

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIATELLTALE0000001",
    "AWS_SECRET_ACCESS_KEY": "telltale/secret+key/2",
    "AWS_SESSION_TOKEN": "telltale-session-3",
    "HTTPS_PROXY": "http://telltale-user-4:telltale-pass-5@127.0.0.1:9",
    "MY_OWN_VARIABLE": "telltale-value-6",
    "USER": "telltale-login-7",
    "LOGNAME": "telltale-login-7",
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home directory with a name that would be known again; commands run in it."""
    folder = tmp_path / "telltale-home-8"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name, value in {**SECRETS, "HOME": str(folder)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("IOBENCH_LOCAL", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield folder
    for number, handler in handlers.items():
        signal.signal(number, handler)


def call(capfd, *words):
    capfd.readouterr()
    status = run(list(map(str, words)))
    said = capfd.readouterr()
    assert status == 0, said.err
    return said.out


def leaks(text):
    """The tell-tale strings in a text; `~` and `$USER` stand for what is the user's own."""
    name = pwd.getpwuid(os.getuid()).pw_name
    found = [value for value in {*SECRETS.values(), "telltale"} if value in text]
    return found + [name for _ in range(name != "root" and f"/{name}/" in text)]


SHORT = ("--engine", "buffered", "--seconds", "0.05", "--set", "blocks=2")


def test_no_record_report_or_export_tells_who_ran_it(home, capfd):
    data = home / "data"
    call(capfd, "generate", data, "--images", "64", "--size", "32", "--images-per-shard", "32")
    said = [
        call(capfd, *words, "--json")
        for words in (
            ("doctor", data),
            ("storage", data, *SHORT, "--set", "threads=1", "--set", "queue_depth=1", "--out", "runs/storage"),
            ("load", data, *SHORT, "--num-workers", "1", "--out", "runs/one"),
            ("stage", data, home / "copy", "--no-compare", "--out", "runs/stage"),
            ("compare", home / "runs/one", "runs/one", "--out", "runs/compared"),
        )
    ]
    for format_ in ("html", "md", "csv", "openmetrics"):
        runs = [home / "runs" / name for name in ("storage", "one", "stage", "compared")]
        call(capfd, "report", *runs, "--format", format_, "-o", f"runs/all.{format_}")
    written = [path for path in (home / "runs").rglob("*") if path.is_file()]
    assert len(written) == 4 * 2 + 4
    for name, text in [*((text[:40], text) for text in said), *((str(path), path.read_text()) for path in written)]:
        assert not leaks(text), name
    assert "~/data" in (home / "runs/one/record.json").read_text()


def test_the_search_finds_what_it_looks_for():
    assert leaks(f"path {Path('/tmp/telltale-home-8/data')}")
    assert leaks(f"key {SECRETS['AWS_ACCESS_KEY_ID']}")
    assert not leaks("~/data of $USER")
