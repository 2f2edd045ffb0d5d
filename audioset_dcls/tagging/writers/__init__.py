"""The formats that tagged recordings are written in: a module a family, and a line in FORMATS for each."""

from __future__ import annotations

from audioset_dcls.tagging.writers.audacity import AUDACITY
from audioset_dcls.tagging.writers.csv import CSV
from audioset_dcls.tagging.writers.formats import Format
from audioset_dcls.tagging.writers.json import JSON, JSON_LINES
from audioset_dcls.tagging.writers.parquet import PARQUET
from audioset_dcls.tagging.writers.raven import RAVEN
from audioset_dcls.tagging.writers.summary import SUMMARY
from audioset_dcls.tagging.writers.table import TABLE

FORMATS: dict[str, Format] = {
    "table": TABLE,
    "json": JSON,
    "jsonl": JSON_LINES,
    "csv": CSV,
    "parquet": PARQUET,
    "summary": SUMMARY,
    "audacity": AUDACITY,
    "raven": RAVEN,
}
