"""The schema in the repository is the models', and holds records to it in another implementation of JSON Schema."""

import json
from pathlib import Path

import jsonschema
import pytest

from iobench.results.schemas import schema_path, schema_text


@pytest.fixture(scope="module")
def validator():
    schema = json.loads(schema_path().read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_schema_in_the_repository_is_the_present_models():
    made = schema_text()
    assert schema_path().read_text(encoding="utf-8") == made, "iobench schema > results/schema/record-1.json"


def test_a_record_fits_the_schema(validator, qualified):
    assert not list(validator.iter_errors(json.loads(qualified.model_dump_json())))


def test_the_stored_record_of_version_1_fits_the_schema(validator):
    stored = json.loads((Path(__file__).parent / "records" / "version-1.json").read_text())
    assert stored["schema_version"] == 1
    assert not list(validator.iter_errors(stored))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("kind",), "party"),
        (("schema_version",), 2),
        (("metrics", "read_gbps", "n"), "many"),
        (("points", 0, "read_path", "observed_route"), "magic"),
        (("unknown_key",), 1),
    ],
)
def test_a_damaged_record_does_not_fit(validator, qualified, place, value):
    document = json.loads(qualified.model_dump_json())
    inner = document
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    (error,) = validator.iter_errors(document)
    assert list(error.absolute_path) == list(place)[: len(error.absolute_path)]
