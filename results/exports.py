"""Records in the formats of other tools: a name of a format and the function that makes it.

html and md are for people, csv and parquet hold one row a figure (rows.py), openmetrics the runs' own figures for a
collector of text files, json a run as its record.json has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .report import ReportError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .record import RunRecord


def export(records: Sequence[RunRecord], format: str) -> str | bytes:  # noqa: A002
    """The records in one of the formats html, md, csv, parquet, openmetrics; json takes one record.

    Raises ReportError without records, and for parquet MissingLibraryError where pyarrow is not installed.
    """
    if not records:
        raise ReportError("a report needs at least one run; give a run's folder or its record.json")
    if format == "json":
        (record,) = records
        return record.model_dump_json(indent=1)
    if format == "md":
        from .markdown import markdown_of

        return markdown_of(records)
    if format == "html":
        from .report import render

        return render(records)
    return _of_figures(records, format)


def _of_figures(records: Sequence[RunRecord], format: str) -> str | bytes:  # noqa: A002
    if format == "openmetrics":
        from .openmetrics import openmetrics_of

        return openmetrics_of(records)
    from .rows import csv_of, parquet_of

    return csv_of(records) if format == "csv" else parquet_of(records)
