"""Markdown of runs and comparisons, held to the letter; and that no string of a record becomes markup."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobench.results.comparison.comparing import compare_record
from iobench.results.comparison.limits import parse_limit
from iobench.results.markdown import escaped, markdown_of
from iobench.results.record import Metric, Point, ReadPath, RunRecord, not_measured

BLOCKS = (1980.0, 2020.0, 2000.0, 1990.0, 2010.0)  # 5 blocks: mean 2000, spread 15.81, t(4) 2.776: +-19.63
PATH = ReadPath(
    engine="direct",
    requested_route="host",
    observed_route="host",
    route_evidence="sda: sectors",
    counter_class="exact",
    page_cache="cold",
    cache_fraction=0.0,
    delivered_bytes=1_000_000,
    device_bytes=1_000_000,
    read_amplification=1.0,
)


def figures(factor=1.0):
    rates = tuple(factor * block for block in BLOCKS)
    mean = 2000.0 * factor
    return {
        "images_per_s": Metric(
            value=mean, unit="images/s", ci95=(mean - 19.63 * factor, mean + 19.63 * factor), n=5, samples=rates
        ),
        "joules_per_image": not_measured("J/image", "no counter"),
    }


def loaded(run_id, factor=1.0, **environment):
    metrics = figures(factor)
    params = {"stage": "load", "engine": "direct", "batch_size": 32, "shuffle": "off", "num_workers": 2}
    return RunRecord(
        run_id=run_id,
        kind="load",
        started_at="2026-11-01T10:00:00+00:00",
        finished_at="2026-11-01T10:01:00+00:00",
        command=("iobench", "load", "~/data"),
        workload={"path": "~/data", "batch_size": 32},
        environment={"host": "node1", "kernel": "6.1", **environment},
        read_path=PATH,
        metrics=metrics,
        points=(Point(params=params, metrics=metrics, read_path=PATH),),
    )


RUN = """\
## Loader rates of \\~/data

`r1`, 2026-11-01T10:00:00+00:00, on node1

**Metrics**

| metric | name in the record | value | unit | 95 % interval | blocks | reason |
| --- | --- | ---: | --- | ---: | ---: | --- |
| image rate | images_per_s | 2,000 | images/s | 1,980 to 2,020 | 5 |  |
| energy per image | joules_per_image | not measured | J/image |  |  | no counter |

**All 1 load point**

| engine | batch size | shuffle | number of workers | image rate, images/s | energy per image, J/image |
| --- | --- | --- | --- | ---: | ---: |
| direct | 32 | off | 2 | 2,000<br>1,980 to 2,020 | not measured <sup>1</sup> |

1. no counter
"""

COMPARISON = """\
Since 2026-11-01T10:00:00+00:00 (r1): images_per_s worse: x 0.900 (0.888 to 0.913).

**What changed (1)**

| figure | then | now | now / then | finding |
| --- | ---: | ---: | ---: | --- |
| image rate | 2,000 images/s | 1,800 images/s | 0.900 (0.888 to 0.913) | worse |

**1 difference in the machine or in what was asked**

| what | then | now |
| --- | --- | --- |
| kernel | 6.1 | 6.2 |
"""


def compared(**limits):
    return compare_record(
        loaded("r1"),
        loaded("r2", 0.9, kernel="6.2"),
        limits=[parse_limit(text) for text in limits.get("fail_if", ())],
        run_id="c1",
        command=("iobench", "compare", "r1", "r2"),
        started="2026-11-02T10:00:00+00:00",
    )


def test_a_run_is_its_figures_their_proof_and_the_command():
    text = markdown_of([loaded("r1")])
    assert text.startswith(RUN)
    assert "**Route of every point**" in text
    assert text.endswith("```sh\niobench load ~/data\n```\n")


def test_a_run_begins_with_what_it_found_and_first_of_all_with_what_makes_it_invalid():
    found = loaded("r1").model_copy(update={"summary": ("2 * 3 are fed.", "One is late.")})
    head = "`r1`, 2026-11-01T10:00:00+00:00, on node1\n\n"
    assert f"{head}2 \\* 3 are fed.\n\nOne is late.\n\n**Metrics**" in markdown_of([found])
    wrong = found.model_copy(update={"warnings": ("not valid: warm",)})
    assert f"{head}**INVALID**: warm\n\n2 \\* 3 are fed.\n\n" in markdown_of([wrong])


def test_a_comparison_is_what_changed_and_in_what_the_runs_differ():
    text = markdown_of([compared()])
    assert text.startswith("## Comparison\n\n`c1`, 2026-11-02T10:00:00+00:00, on ")
    assert COMPARISON in text
    assert text.endswith("```sh\niobench compare r1 r2\n```\n")


def test_the_record_of_a_comparison_as_json_says_the_same():
    record = compared(fail_if=["images_per_s < -5%"])
    document = record.model_dump(mode="json")
    assert (document["kind"], document["workload"]["fail_if"]) == ("compare", ["images_per_s < -5%"])
    assert document["metrics"]["images_per_s_ratio"]["value"] == pytest.approx(0.9)
    first = document["history"]["changes"][0]
    assert (first["name"], first["base"], first["candidate"], first["finding"]) == ("images_per_s", 2000, 1800, "worse")
    assert first["ci95"] == pytest.approx([0.88759, 0.91258], abs=1e-4)
    assert document["history"]["differences"] == [{"name": "kernel", "base": "6.1", "candidate": "6.2"}]
    assert document["verdict"]["outcome"] == "fail"
    (requirement,) = document["verdict"]["requirements"]
    assert requirement["measured"] == pytest.approx(-10.0)
    assert {key: requirement[key] for key in ("name", "text", "required", "unit", "passed")} == {
        "name": "images_per_s",
        "text": "not images_per_s < -5%",
        "required": -5.0,
        "unit": "%",
        "passed": False,
    }


def test_a_verdict_stands_before_the_figures():
    text = markdown_of([compared(fail_if=["images_per_s < -5%"])])
    assert "**FAIL**: The candidate breaks 1 of 1 limits: images_per_s -10.0 %." in text
    assert "| not images_per_s \\< -5% | -10 % | -5 % |" in text


def test_long_tables_are_folded_and_what_changed_never_is(qualified):
    slower = qualified.model_copy(update={"run_id": "slower", "points": tuple(map(slowed, qualified.points))})
    text = markdown_of([compare_record(qualified, slower, run_id="c", command=(), started="2026-11-02T10:00:00+00:00")])
    (changed,) = re.findall(r"^\*\*What changed \((\d+)\)\*\*$", text, re.MULTILINE)
    assert int(changed) > 12
    assert len(re.findall("<details><summary>No difference shown, or not comparable", text)) == 1
    assert text.count("<details>") == text.count("</details>")


def slowed(point):
    metrics = {
        name: metric.model_copy(update={"samples": tuple(value / 2 for value in metric.samples)})
        for name, metric in point.metrics.items()
    }
    return point.model_copy(update={"metrics": metrics})


@given(st.text(max_size=40))
def test_no_string_becomes_markup(text):
    shown = escaped(text)
    assert "\n" not in shown
    assert not re.search(r"(?<!\\)(?:\\\\)*[<>|`*\[\]$]", shown.replace("\\\\", ""))
    assert re.sub(r"\\(.)", r"\1", shown.replace("&amp;", "&")) == " ".join(text.split())


def test_hostile_names_and_commands_stay_text():
    record = loaded("r`1`", host="<img src=x onerror=alert(1)>").model_copy(
        update={"command": ("iobench", "```\n# no heading"), "warnings": ("a | b\n\n# c <b>",)}
    )
    text = markdown_of([record])
    assert "<img" not in text.replace("\\<img", "")
    assert "- a \\| b \\# c \\<b\\>" in text
    assert "````sh\n" in text
