"""The formats that tagged recordings are written in: a module a family, and a line in FORMATS for each."""

from __future__ import annotations

from audioset_dcls.tagging.writers.audacity import AUDACITY
from audioset_dcls.tagging.writers.csv import CSV
from audioset_dcls.tagging.writers.elan import ELAN
from audioset_dcls.tagging.writers.formats import Format
from audioset_dcls.tagging.writers.jams import JAMS
from audioset_dcls.tagging.writers.json import JSON, JSON_LINES
from audioset_dcls.tagging.writers.kaleidoscope import KALEIDOSCOPE
from audioset_dcls.tagging.writers.label_studio import LABEL_STUDIO
from audioset_dcls.tagging.writers.parquet import PARQUET
from audioset_dcls.tagging.writers.raven import RAVEN
from audioset_dcls.tagging.writers.rttm import RTTM
from audioset_dcls.tagging.writers.subtitles import SRT, VTT
from audioset_dcls.tagging.writers.summary import SUMMARY
from audioset_dcls.tagging.writers.table import TABLE
from audioset_dcls.tagging.writers.textgrid import TEXTGRID

FORMATS: dict[str, Format] = {
    "table": TABLE,
    "json": JSON,
    "jsonl": JSON_LINES,
    "csv": CSV,
    "parquet": PARQUET,
    "summary": SUMMARY,
    "audacity": AUDACITY,
    "raven": RAVEN,
    "textgrid": TEXTGRID,
    "eaf": ELAN,
    "rttm": RTTM,
    "jams": JAMS,
    "vtt": VTT,
    "srt": SRT,
    "labelstudio": LABEL_STUDIO,
    "kaleidoscope": KALEIDOSCOPE,
}
