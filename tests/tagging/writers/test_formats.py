"""Every format gives back what was put in."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pandas
import pyarrow.parquet as pq
import pytest

from audioset_dcls.tagging.writers import FORMATS
from audioset_dcls.tagging.writers.formats import COLUMNS, View, clock
from preprocessing.terminal import printable

LABEL = "Livestock, farm animals, working animals"
FILE = 'a "b", c\nd\té.wav'


def entry(label: str, score: float, mean: float, implied: bool = False) -> dict[str, Any]:
    return {"label": label, "score": score, "mean": mean, "implied": implied}


def event(start: float, end: float, *of: Any) -> dict[str, Any]:
    return {"start": start, "end": end, **entry(*of)}


FACTS: dict[str, Any] = {"path": "/x/quiet.wav", "channel": None, "rate": 8000, "band": [50, 4000], "recorded": None}
START = "2023-01-01T12:30:00+01:00"
RECORDS: list[dict[str, Any]] = [
    {
        "file": FILE,
        "duration": 12.5,
        "tags": [entry("Animal", 0.95, 0.6, True), entry(LABEL, 0.9, 0.5), entry("Moo", 0.3, 0.2)],
        "events": [
            event(0.0, 5.0, LABEL, 0.9, 0.8),
            event(0.0, 12.5, "Animal", 0.95, 0.6, True),
            event(5.0, 12.5, "Moo", 0.3, 0.3),
        ],
        "best": {"label": LABEL, "score": 0.9},
        **FACTS,
        "path": f"/field 1/{FILE}",
        "channel": 2,
        "recorded": START,
    },
    {
        **{"file": "quiet.wav", "duration": 3.0, "tags": [], "events": [], "best": {"label": "Silence", "score": 0.1}},
        **FACTS,
    },
]


def text(name: str, timeline: bool, records: list[dict[str, Any]] = RECORDS, all_levels: bool = False) -> str:
    return "".join(FORMATS[name].text(iter(records), View(timeline, all_levels)))


@pytest.mark.parametrize("timeline", [False, True])
def test_json(timeline: bool) -> None:
    parsed = json.loads(text("json", timeline))
    assert parsed == [json.loads(line) for line in text("jsonl", timeline).splitlines()]
    assert [record["file"] for record in parsed] == [FILE, "quiet.wav"]
    assert [record["recorded"] for record in parsed] == [START, None]
    assert parsed[0]["tags"] == RECORDS[0]["tags"]
    assert parsed[0].get("events") == (RECORDS[0]["events"] if timeline else None)
    assert json.loads(text("json", timeline, [])) == []


@pytest.mark.parametrize("timeline", [False, True])
def test_csv_and_parquet_hold_the_same_rows(timeline: bool, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(text("csv", timeline), newline="")))
    FORMATS["parquet"].write(tmp_path / "tags.parquet", RECORDS, View(timeline))
    table = pq.read_table(tmp_path / "tags.parquet").to_pylist()
    assert len(rows) == len(table) == 4
    last, last_other = rows.pop(), table.pop()  # nothing was heard there
    assert last == {**dict.fromkeys(COLUMNS, ""), "file": "quiet.wav", "start": "0.0", "end": "3.0", "implied": "false"}
    assert (last_other["file"], last_other["label"], last_other["score"]) == ("quiet.wav", "", None)
    for row, other in zip(rows, table, strict=True):
        assert list(row) == list(other) == list(COLUMNS)
        assert (row["file"], row["label"]) == (other["file"], other["label"])
        assert all(float(row[key]) == pytest.approx(other[key]) for key in ("start", "end", "score", "mean"))
        assert row["implied"] == str(other["implied"]).lower()
        assert row["time"] == other["time"] == f"2023-01-01T12:30:{float(row['start']):06.3f}+01:00"
    assert {row["file"] for row in rows} == {FILE}
    assert [row["implied"] for row in rows if row["label"] in ("Animal", LABEL, "Moo")].count("true") == 1
    assert [(float(row["start"]), float(row["end"])) for row in rows] == (
        [(0, 5), (0, 12.5), (5, 12.5)] if timeline else [(0, 12.5)] * 3
    )


def test_audacity() -> None:
    """Three fields a line, parted by tabs: start, end, text."""
    lines = [line.split("\t") for line in text("audacity", False, RECORDS[:1]).splitlines()]
    assert lines == [["0.000", "5.000", f"{LABEL} 0.90"], ["5.000", "12.500", "Moo 0.30"]]


def test_raven(tmp_path: Path) -> None:
    """Times from the first recording's start on, and within the file; all of one number of columns."""
    other = {**RECORDS[0], "file": "b.wav", "path": "/x/b.wav", "channel": None}
    (tmp_path / "raven.txt").write_text(text("raven", False, [*RECORDS, other]))
    table = pandas.read_csv(tmp_path / "raven.txt", sep="\t", quoting=csv.QUOTE_NONE)
    assert list(table.columns[:7]) == [
        *("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)")
    ]
    assert table["Selection"].tolist() == [1, 2, 3, 4]
    assert table["Label"].tolist() == [LABEL, "Moo"] * 2
    assert table["Channel"].tolist() == [2, 2, 1, 1]
    assert table["Begin Path"].tolist() == [printable(f"/field 1/{FILE}")] * 2 + ["/x/b.wav"] * 2
    assert table["File Offset (s)"].tolist() == [0, 5, 0, 5]
    assert table["Begin Time (s)"].tolist() == [0, 5, 15.5, 20.5]
    assert table["End Time (s)"].tolist() == [5, 12.5, 20.5, 28]
    assert set(table["High Freq (Hz)"]) == {4000}


def test_table() -> None:
    assert (
        f"  0.90  {LABEL}\n  0.30  Moo\nquiet.wav  0:03.0\n  nothing above the threshold; best: 0.10  Silence\n"
        in text("table", False)
    )
    assert "   0:00.0 - 0:05.0   0.90" in text("table", True)
    assert "  0.95  Animal\n  0.90" in text("table", False, all_levels=True)


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_implied_is_for_programs(name: str, tmp_path: Path) -> None:
    """They mark it; people see it with all levels."""
    path = tmp_path / "tags"
    for all_levels in (False, True):
        FORMATS[name].write(path, RECORDS[:1], View(True, all_levels))
        content = path.read_bytes()
        assert b"Moo" in content
        assert (b"Animal" in content) == (all_levels or FORMATS[name].for_programs)


def test_summary() -> None:
    """By minutes; recordings, events, the first and the highest."""
    other = {**RECORDS[0], "file": "b.wav", "duration": 60.0, "events": [event(30.0, 60.0, "Moo", 0.7, 0.5)]}
    rows = list(csv.DictReader(io.StringIO(text("summary", False, [*RECORDS, other]), newline="")))
    assert [row["label"] for row in rows] == ["Moo", LABEL]
    moo = {"label": "Moo", "recordings": "2", "events": "2", "minutes": "0.62", "highest": "0.7"}
    assert rows[0] == moo | {"first_file": FILE, "first_start": "5.0", "highest_file": "b.wav", "highest_start": "30.0"}


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0:00.0"), (3.04, "0:03.0"), (59.96, "1:00.0"), (599.96, "10:00.0"), (600, "10:00"), (3723.4, "1:02:03")],
)
def test_clock(seconds: float, expected: str) -> None:
    assert clock(seconds) == expected


@pytest.mark.parametrize("name", FORMATS)
def test_a_failed_write_leaves_what_was_there(name: str, tmp_path: Path) -> None:
    path = tmp_path / "tags"
    path.write_text("before")

    def records():  # type: ignore[no-untyped-def]
        yield RECORDS[0]
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        FORMATS[name].write(path, records(), View())
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["tags"]
