"""Which earlier run is the good one."""

from iobench.results.comparison.earlier import last_good
from iobench.results.record import RunRecord, Verdict, write_record


def run(name="base", *, kind="qualify", outcome="pass", at="01", **workload):
    return RunRecord(
        run_id=name,
        kind=kind,
        started_at=f"2026-11-{at}T10:00:00+00:00",
        finished_at=f"2026-11-{at}T10:02:00+00:00",
        command=("iobench", "qualify"),
        workload={"target": "/mnt/set", "preset": "quick", **workload},
        environment={"host": "a"},
        verdict=Verdict(outcome=outcome, passed=outcome == "pass", sentence="."),
    )


KEYS = ("target", "preset")


def keep(folder, *records):
    for record in records:
        write_record(record, folder / record.run_id)


def test_the_newest_run_that_passed_is_the_last_good_one(tmp_path):
    keep(
        tmp_path,
        run("old", at="01"),
        run("good", at="02"),
        run("missed", at="03", outcome="fail"),
        run("unsure", at="04", outcome="insufficient"),
        run("elsewhere", at="05", target="/mnt/other"),
        run("longer", at="06", preset="standard"),
        run("later", at="20"),
    )
    found, notes = last_good(tmp_path, run("now", at="10"), keys=KEYS)
    assert found.run_id == "good"
    assert notes == []


def test_where_none_passed_the_newest_valid_one_is_taken_and_none_where_there_is_none(tmp_path):
    assert last_good(tmp_path / "not there", run("now"), keys=KEYS) == (None, [])
    keep(tmp_path, run("now", at="10"), run("unsure", at="02", outcome="invalid"))
    assert last_good(tmp_path, run("now", at="10"), keys=KEYS)[0] is None
    keep(tmp_path, run("missed", at="03", outcome="fail"))
    assert last_good(tmp_path, run("now", at="10"), keys=KEYS)[0].run_id == "missed"


def test_a_damaged_record_is_told_of_and_foreign_files_are_left_alone(tmp_path):
    keep(tmp_path, run("good", at="02"))
    for name, text in (("torn", '{"kind": "qualify", "schema_version": 1'), ("foreign", '{"kind": "song"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(text)
    found, notes = last_good(tmp_path, run("now", at="10"), keys=KEYS)
    assert found.run_id == "good"
    (note,) = notes
    assert "torn" in note
