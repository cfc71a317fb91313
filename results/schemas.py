"""The JSON schema of a record, made from the models: `schema/record-N.json`, N being the schema's version.

It is in the repository for readers in other languages.  A record of this version fits it; keys that came later within
the version are not required.
"""

from __future__ import annotations

import json
from pathlib import Path

from .record import SCHEMA_VERSION, RunRecord

FOLDER = Path(__file__).parent / "schema"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema_path(version: int = SCHEMA_VERSION) -> Path:
    """Where the schema of a version is kept."""
    return FOLDER / f"record-{version}.json"


def schema_text() -> str:
    """The present models' schema as JSON (draft 2020-12)."""
    schema = RunRecord.model_json_schema(mode="validation")
    schema["properties"]["schema_version"] = {"const": SCHEMA_VERSION, "title": "Schema Version", "type": "integer"}
    named = {"$schema": DIALECT, **schema, "title": "iobench record"}
    named["required"] = ["schema_version", *named["required"]]
    return json.dumps(named, indent=1) + "\n"
