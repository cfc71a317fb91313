"""The page: it opens without a network, escapes everything, and shows no figure that was not measured."""

import base64
import hashlib
import json
import os
import re
import subprocess
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iobench.results.headlines import headline_facts
from iobench.results.record import RunRecord, Verdict, not_measured
from iobench.results.report import ReportError, render, write_report

EVIL = "</script></style><script>alert(1)</script><img src=https://example.org/x onerror=alert(2)>\"'&{x}{}%s"


class Page(HTMLParser):
    """The elements, scripts and words of a page, as a browser would take them."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data):
        if self.scripts and self.elements[-1][0] == "script" and not self.scripts[-1][1]:
            self.scripts[-1] = (self.scripts[-1][0], data)
        else:
            self.words.append(data)
            if self.elements and self.elements[-1][0] in ("td", "th"):
                self.rows[-1][-1] += data.strip()

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    @property
    def policy(self) -> str:
        metas = (attrs for tag, attrs in self.elements if tag == "meta")
        return next(a["content"] for a in metas if a.get("http-equiv") == "Content-Security-Policy")


def bare(**fields) -> RunRecord:
    """A record with nothing in it but what it must have."""
    must = {
        "run_id": "r",
        "kind": "doctor",
        "started_at": "a",
        "finished_at": "b",
        "command": ("iobench",),
        "workload": {},
        "environment": {},
    }
    return RunRecord(**(must | fields))


def poisoned(value, *, keep):
    """The same document with EVIL behind every string and key that the schema leaves free."""
    if isinstance(value, dict):
        return {
            (name if name in keep else name + EVIL): poisoned(inner, keep=keep)
            if name not in ("kind", "outcome", "stage", "source", "access")
            and not name.endswith(("_route", "_class", "_scope", "page_cache"))
            else inner
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [poisoned(inner, keep=keep) for inner in value]
    return value + EVIL if isinstance(value, str) else value


def keys_of(document) -> set[str]:
    if isinstance(document, dict):
        return set(document) | {key for inner in document.values() for key in keys_of(inner)}
    return {key for inner in document for key in keys_of(inner)} if isinstance(document, list) else set()


def test_the_page_begins_with_the_verdict_and_keeps_its_order(qualified):
    text = Page(render([qualified])).text
    places = [
        text.index(words)
        for words in (
            "PASS This storage feeds 3 emulated H100",
            "emulated H100 fed, measured 3",
            "95 % interval",
            "feeds at least 2 accelerators",
            "Rests on 7 min 12 s of measurement and 402 GB read.",
            "Read directly, waiting for data takes",
            "Fastest:",
            "3 emulated H100 fed when measured, 3 predicted",
            "3 readers get",
            "Copying the data to the local disk first takes 233 s",
            "(4 ranks, direct)",
            "41200",
            "sda: 512-byte sectors read, background subtracted",
            "peak_rss_bytes",
            "AMD EPYC 9354",
            "the server's cache was not ruled out",
            "iobench qualify ~/data/imagenet --preset quick --set workload.epochs=8",
        )
    ]
    assert places == sorted(places)


@pytest.mark.parametrize("outcome", ["pass", "fail", "insufficient", "invalid"])
def test_the_outcome_is_a_word_and_a_colour(outcome):
    page = Page(render([bare(verdict=Verdict(outcome=outcome, passed=None, sentence="Thus it is."))]))
    assert f"{outcome.upper()} Thus it is." in page.text
    assert ("section", f"verdict {outcome}") in [(tag, attrs.get("class")) for tag, attrs in page.elements]


def test_a_record_with_nothing_in_it_has_a_page_without_empty_sections(qualified):
    page = Page(render([bare()]))
    assert "What this machine can do" in page.text
    assert page.count("script") == page.count("table") == page.count("figure") == 0
    assert page.count("h2") == 1  # the command to repeat it


@pytest.mark.parametrize("kind", ["storage", "load", "stage", "train"])
def test_the_record_of_a_single_bench_has_its_own_sections_only(only, kind):
    page = Page(render([only(kind)]))
    ids = {attrs["id"].removeprefix("run0-") for tag, attrs in page.elements if tag == "section" and "id" in attrs}
    own = {"storage": {"device"}, "load": {"loader"}, "stage": set(), "train": {"steps", "fed", "ranks"}}[kind]
    assert ids & {"device", "loader", "steps", "fed", "ranks", "copy"} == own


@pytest.mark.parametrize(
    ("reason", "shown", "note"),
    [
        ("never. Read in place: it is faster.", "never", "Read in place: it is faster."),
        ("same device: not applicable. Name another.", "not applicable", "Name another."),
        ("no second read was made", "not measured", "no second read was made"),
    ],
)
def test_that_a_copy_never_pays_is_an_answer(qualified, reason, shown, note):
    metrics = {"break_even_epochs": not_measured("epochs", reason)}
    (fact,) = headline_facts(qualified.model_copy(update={"kind": "stage", "metrics": metrics, "points": ()}))
    assert (fact.value, fact.notes) == (shown, (note,))


def test_a_run_without_a_requirement_begins_with_what_it_found(only):
    found = only("train").model_copy(update={"summary": ("Fed: 3.", "Rank 2 is late."), "warnings": ("careful",)})
    words = Page(render([found])).text
    assert words.index("Fed: 3. Rank 2 is late.") < words.index("Image rate" if "Image rate" in words else "image rate")
    assert words.index("1 warning") < words.index("Where a step's time goes")
    assert "INVALID" not in words


def test_a_measurement_that_does_not_count_says_so_before_its_figures(only):
    warnings = ("not valid: read from the page cache", "not valid: others read, too", "slow")
    words = Page(render([only("load").model_copy(update={"summary": ("All is well.",), "warnings": warnings})])).text
    assert "! INVALID read from the page cache (and 1 more, see the warnings) All is well." in words
    assert "3 warnings" in words


def test_a_run_that_stopped_on_its_way_says_why_before_anything_else(only):
    stopped = only("load").model_copy(update={"metrics": {}, "points": (), "workload": {"failed": "a rank died"}})
    assert "! STOPPED Stopped before its end: a rank died" in Page(render([stopped])).text


def test_several_runs_share_a_page_and_no_name(qualified, only):
    page = Page(render([qualified, only("load"), qualified]))
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert page.count("article") == 3
    targets = {attrs["href"][1:] for tag, attrs in page.elements if tag == "a"}
    assert targets <= set(ids)


def test_no_runs_are_no_report():
    with pytest.raises(ReportError, match="at least one run"):
        render([])


def test_every_picture_is_followed_by_its_table(qualified):
    page = Page(render([qualified]))
    tags = [tag for tag, _ in page.elements]
    figures = [place for place, tag in enumerate(tags) if tag == "figure"]
    for start, end in zip(figures, [*figures[1:], len(tags)], strict=True):
        assert tags.index("details", start) < tags.index("table", start) < end


def test_what_was_not_measured_is_shown_with_its_reason_and_never_as_zero(qualified):
    metrics = {name: not_measured(metric.unit, f"why-{name}") for name, metric in qualified.metrics.items()}
    rows = Page(render([qualified.model_copy(update={"metrics": metrics, "points": ()})])).rows
    shown = {row[1]: (row[2], row[4:]) for row in rows if row[1] in metrics}
    assert shown == {name: ("not measured", ["", "", f"why-{name}"]) for name in metrics}


def test_missing_counters_are_not_shown_as_zero_bytes(qualified):
    point = next(point for point in qualified.points if point.params.get("engine") == "mmap")
    rows = Page(render([qualified.model_copy(update={"points": (point,), "read_path": None})])).rows
    (row,) = [row for row in rows if "unknown" in row]
    assert row[3:7] == ["unknown", "none", "cold", "not measured"]
    assert row[7:] == ["not measured", "16.6 GB", "not measured", "not measured", "not measured"]


def test_a_figure_without_verdict_data_says_so():
    verdict = Verdict(outcome="insufficient", passed=None, sentence="Too short.")
    assert "an unrecorded time of measurement" in Page(render([bare(verdict=verdict)])).text
    assert "Rests on" not in Page(render([bare(verdict=verdict).model_copy(update={"kind": "compare"})])).text


def test_the_page_asks_for_nothing_from_anywhere(qualified):
    text = render([qualified])
    page = Page(text)
    for tag, attrs in page.elements:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base", "form", "video", "audio"), tag
        for name in ("src", "srcset", "action", "data", "poster"):
            assert name not in attrs, (tag, name)
        assert attrs.get("href", "#").startswith("#")
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    assert page.policy.startswith("default-src 'none'; ")
    assert "http" not in page.policy


def test_only_the_pages_own_scripts_may_run(qualified):
    page = Page(render([qualified]))
    running = [body for _, body in page.scripts]
    assert running
    digests = [base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in running]
    (allowed,) = re.findall(r"script-src ([^;]*);", page.policy)
    assert allowed.split() == [f"'sha256-{digest}'" for digest in digests]


def test_no_string_of_a_record_becomes_markup(everything):
    qualified = everything
    document = json.loads(qualified.model_dump_json())
    schema = keys_of(RunRecord.model_json_schema()) | {"stage", "source", "access", "num_ranks", "copy_or_not", "host"}
    keep = schema | set(qualified.workload) | set(qualified.metrics) | set(qualified.points[0].params)
    keep |= {*qualified.workload["copy_or_not"], "versions", "cpu", "storage"}
    keep |= {name for point in qualified.points for name in (*point.params, *point.metrics)}
    record = RunRecord.model_validate(poisoned(document, keep=keep))
    clean, page = Page(render([qualified])), Page(render([record]))
    assert page.text.count("<script>alert(1)</script>") > 50
    for tag in ("script", "style", "img", "section", "figure", "svg"):
        assert page.count(tag) == clean.count(tag), tag
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    assert page.scripts == clean.scripts


markup = st.sampled_from(["<b>", "</main>", "<script>", "&lt;", "&amp", "<!--", "-->", "<", "&", "'", '"', "{{", "%}"])
letters = st.characters(exclude_categories=["C", "Z"])


@given(st.lists(markup | letters, min_size=1).map("".join))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_shown_as_it_was_written(text):
    record = bare(
        run_id=text,
        command=("iobench", "load", text),
        workload={"path": text, text: text},
        environment={text: [text], "host": text},
        verdict=Verdict(outcome="fail", passed=False, sentence=text),
        warnings=(text,),
    )
    page = Page(render([record]))
    assert f"FAIL {text}" in page.text
    assert page.text.count(text) >= 6
    assert page.count("script") == 0


def test_the_report_is_written_whole(qualified, tmp_path):
    write_report([qualified], tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render([qualified])
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_command_with_blanks_and_quotes_can_be_pasted(qualified):
    command = ("iobench", "load", "~/my data", "--set", "a='b'", "/scratch/$USER/x", "")
    text = Page(render([qualified.model_copy(update={"command": command})])).text
    line = text[text.rindex("iobench load") :]
    echoed = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {line}"],
        env={"HOME": "/home/ada", "USER": "ada", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    assert echoed == ["iobench", "load", "/home/ada/my data", "--set", "a='b'", "/scratch/ada/x", "", ""]
