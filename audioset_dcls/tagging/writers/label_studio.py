"""Tasks of Label Studio with the events as predictions, for a labelling setup of `<Audio name="audio">` and `<Labels>`.

Label Studio serves files of its own machine below LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, for these paths /.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from audioset_dcls import __version__
from audioset_dcls.tagging.writers.formats import Format, Record
from audioset_dcls.tagging.writers.json import json_array
from preprocessing.terminal import json_text

_LOCAL = "/data/local-files/?d="


def _render(records: Iterable[Record], timeline: bool) -> Iterator[str]:
    yield from json_array(json_text(json.dumps(_task(record), ensure_ascii=False)) for record in records)


def _task(record: Record) -> Record:
    channel = (record["channel"] or 1) - 1
    results: list[dict[str, Any]] = [
        {
            "id": f"event{number}",
            "from_name": "label",
            "to_name": "audio",
            "type": "labels",
            "original_length": record["duration"],
            "score": event["score"],
            "value": {
                "start": event["start"],
                "end": event["end"],
                "channel": channel,
                "labels": [event["label"]],
            },
        }
        for number, event in enumerate(record["events"], 1)
    ]
    audio = record["file"] if record["path"] is None else _LOCAL + quote(record["path"].lstrip("/"), errors="replace")
    score = max((event["score"] for event in record["events"]), default=0.0)
    prediction = {"model_version": f"dcls-tag {__version__}", "score": score, "result": results}
    return {"data": {"audio": audio, "file": record["file"]}, "predictions": [prediction]}


LABEL_STUDIO = Format(".labelstudio.json", _render)
