"""What other tools' own libraries read from the files that are for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jams
import pandas
import pympi
import pytest
import srt
import webvtt
from praatio import textgrid

from audioset_dcls.tagging.writers import FORMATS
from audioset_dcls.tagging.writers.formats import View
from tests.tagging.writers.test_formats import FACTS, FILE, LABEL, RECORDS, event

ODD = '<b>"Käuzchen" & -->\x1b[31m'
HEARD: dict[str, Any] = {
    **RECORDS[0],
    "events": [event(0.0, 5.0, LABEL, 0.9, 0.8), event(1.25, 2.5, "Moo", 0.3, 0.3), event(5.0, 12.5, LABEL, 0.7, 0.6)],
}
STRANGE: dict[str, Any] = {**HEARD, "events": [event(1.0, 2.0, ODD, 0.5, 0.5)]}
NOTHING = RECORDS[1]


def write(path: Path, name: str, *records: dict[str, Any]) -> str:
    FORMATS[name].write(path / "tags", records, View())
    return str(path / "tags")


def test_praat(tmp_path: Path) -> None:
    grid = textgrid.openTextgrid(write(tmp_path, "textgrid", HEARD), includeEmptyIntervals=True)
    assert grid.tierNames == (LABEL, "Moo")
    assert (grid.minTimestamp, grid.maxTimestamp) == (0, 12.5)
    assert [tuple(entry) for entry in grid.getTier(LABEL).entries] == [(0, 5, "0.90"), (5, 12.5, "0.70")]
    assert [tuple(entry) for entry in grid.getTier("Moo").entries] == [
        (0, 1.25, ""),
        (1.25, 2.5, "0.30"),
        (2.5, 12.5, ""),
    ]
    assert textgrid.openTextgrid(write(tmp_path, "textgrid", NOTHING), True).tierNames == ("events",)
    strange = textgrid.openTextgrid(write(tmp_path, "textgrid", STRANGE), True)
    assert strange.tierNames[0].replace('""', '"') == ODD.replace("\x1b", "\\x1b")


@pytest.mark.parametrize("name", ["textgrid", "eaf"])
def test_events_that_overlap(name: str, tmp_path: Path) -> None:
    """In a tier they may not: the later one begins where the earlier one ends."""
    record = {**HEARD, "events": [event(0, 5, "a", 0.9, 0.9), event(3, 8, "a", 0.8, 0.8), event(6, 7, "a", 0.7, 0.7)]}
    path = write(tmp_path, name, record)
    if name == "eaf":
        found = pympi.Elan.Eaf(path).get_annotation_data_for_tier("a")
        assert found == [(0, 5000, "0.90"), (5000, 8000, "0.80")]
    else:
        entries = textgrid.openTextgrid(path, includeEmptyIntervals=False).getTier("a").entries
        assert [tuple(entry) for entry in entries] == [(0, 5, "0.90"), (5, 8, "0.80")]


def test_elan(tmp_path: Path) -> None:
    eaf = pympi.Elan.Eaf(write(tmp_path, "eaf", HEARD))
    assert set(eaf.get_tier_names()) == {LABEL, "Moo"}
    assert sorted(eaf.get_annotation_data_for_tier(LABEL)) == [(0, 5000, "0.90"), (5000, 12500, "0.70")]
    assert eaf.get_annotation_data_for_tier("Moo") == [(1250, 2500, "0.30")]
    (media,) = eaf.get_linked_files()
    assert unquote(media["MEDIA_URL"]) == f"file:///field 1/{FILE}"
    assert not pympi.Elan.Eaf(write(tmp_path, "eaf", NOTHING)).get_tier_names()
    assert list(pympi.Elan.Eaf(write(tmp_path, "eaf", STRANGE)).get_tier_names()) == [ODD.replace("\x1b", "\\x1b")]


def test_rttm(tmp_path: Path) -> None:
    """Read as pyannote reads it: fields parted by white space."""
    other = {**HEARD, **FACTS, "file": "my field/b 1.wav"}
    names = ["type", "file", "channel", "start", "duration", "_1", "_2", "label", "score", "_3"]
    table = pandas.read_csv(write(tmp_path, "rttm", other, NOTHING, STRANGE), sep=r"\s+", names=names, quoting=3)
    assert table["type"].unique().tolist() == ["SPEAKER"]
    assert table["label"][:3].tolist() == [LABEL.replace(" ", "_"), "Moo", LABEL.replace(" ", "_")]
    assert table["file"][:3].unique().tolist() == ["my_field/b_1"]
    assert table["start"][:3].tolist() == [0, 1.25, 5]
    assert table["duration"][:3].tolist() == [5, 1.25, 7.5]
    assert table["score"][:3].tolist() == [0.9, 0.3, 0.7]


def test_jams(tmp_path: Path) -> None:
    for record in (HEARD, NOTHING, STRANGE):
        document = jams.load(write(tmp_path, "jams", record), fmt="jams", validate=True)
        (annotation,) = document.annotations
        assert (annotation.namespace, annotation.duration) == ("tag_open", record["duration"])
        assert document.file_metadata.duration == record["duration"]
        assert [(one.time, one.duration, one.value, one.confidence) for one in annotation.data] == [
            (e["start"], e["end"] - e["start"], e["label"], e["score"]) for e in record["events"]
        ]


def test_webvtt(tmp_path: Path) -> None:
    cues = list(webvtt.read(write(tmp_path, "vtt", {**HEARD, "events": [event(3601.0015, 3725.5, "Moo", 0.3, 0.3)]})))
    assert [(cue.start, cue.end, cue.text) for cue in cues] == [("01:00:01.002", "01:02:05.500", "Moo")]
    assert list(webvtt.read(write(tmp_path, "vtt", NOTHING))) == []
    (cue,) = webvtt.read(write(tmp_path, "vtt", STRANGE))
    assert cue.raw_text == '&lt;b&gt;"Käuzchen" &amp; --&gt;\\x1b[31m'


def test_srt(tmp_path: Path) -> None:
    cues = list(srt.parse(Path(write(tmp_path, "srt", HEARD)).read_text()))
    assert [(cue.start.total_seconds(), cue.end.total_seconds(), cue.content) for cue in cues] == [
        (0, 5, LABEL),
        (1.25, 2.5, "Moo"),
        (5, 12.5, LABEL),
    ]
    assert list(srt.parse(Path(write(tmp_path, "srt", NOTHING)).read_text())) == []


def test_label_studio(tmp_path: Path) -> None:
    """A list of tasks; each prediction's regions as its import wants them."""
    heard, nothing = json.loads(Path(write(tmp_path, "labelstudio", HEARD, NOTHING)).read_text())
    assert unquote(heard["data"]["audio"]) == f"/data/local-files/?d=field 1/{FILE}"
    (prediction,) = heard["predictions"]
    assert prediction["score"] == 0.9
    regions = prediction["result"]
    assert len({region["id"] for region in regions}) == 3
    for region, e in zip(regions, HEARD["events"], strict=True):
        value = {"start": e["start"], "end": e["end"], "channel": 1, "labels": [e["label"]]}
        assert region["value"] == value
        assert (region["type"], region["original_length"], region["score"]) == ("labels", 12.5, e["score"])
    assert nothing["predictions"][0]["result"] == []


def test_kaleidoscope(tmp_path: Path) -> None:
    table = pandas.read_csv(write(tmp_path, "kaleidoscope", HEARD, {**HEARD, "recorded": None}, NOTHING))
    assert len(table) == 6
    assert (table["INDIR"] + "/" + table["IN FILE"]).tolist() == [f"/field 1/{FILE}"] * 6
    assert table["OFFSET"].tolist() == [0, 1.25, 5] * 2
    assert table["DURATION"].tolist() == [5, 1.25, 7.5] * 2
    assert table["TIME"][:3].tolist() == ["12:30:00", "12:30:01", "12:30:05"]
    assert table["DATE"].isna().tolist() == [False] * 3 + [True] * 3
    assert table["TOP1MATCH"][:2].tolist() == [LABEL, "Moo"]
    assert set(table["CHANNEL"]) == {1}
