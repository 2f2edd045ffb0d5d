"""JAMS: an annotation of the namespace `tag_open` for each recording."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from audioset_dcls import __version__
from audioset_dcls.tagging.writers.formats import Format, Record
from preprocessing.terminal import json_text

_SCHEMA = "0.3.4"


def _render(records: Iterable[Record], timeline: bool) -> Iterator[str]:
    for record in records:
        tools = {"annotation_tools": "dcls-tag", "version": __version__, "data_source": "program"}
        data = [
            {
                "time": event["start"],
                "duration": round(event["end"] - event["start"], 3),
                "value": event["label"],
                "confidence": event["score"],
            }
            for event in record["events"]
        ]
        annotation = {
            "namespace": "tag_open",
            "time": 0.0,
            "duration": record["duration"],
            "data": data,
            "annotation_metadata": tools,
            "sandbox": {},
        }
        about = {"title": record["file"], "duration": record["duration"], "identifiers": {}, "jams_version": _SCHEMA}
        document = {"file_metadata": about, "annotations": [annotation], "sandbox": {}}
        yield json_text(json.dumps(document, ensure_ascii=False, indent=1)) + "\n"


JAMS = Format(".jams", _render, of="recording")
