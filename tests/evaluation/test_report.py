"""The report's files: numbers equal to scikit-learn's, classes left out and named, a page that needs nothing else."""

from __future__ import annotations

import csv
import io
import json
import re
from base64 import b64encode
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import average_precision_score, roc_auc_score

from audioset_dcls.evaluation import bootstrap, metrics
from audioset_dcls.evaluation.predictions import Predictions, hash_targets
from audioset_dcls.evaluation.report import (
    Report,
    as_json,
    print_summary,
)
from audioset_dcls.evaluation.report_files import write_report
from audioset_dcls.evaluation.report_page import MISTAKES, MISTAKES_PER_CLASS, html, most_confident
from audioset_dcls.evaluation.summary import SPECIFIC, Summary, summarize

NASTY = "</script><b>Bird flight, flapping wings</b> & {{ charts }}{% if %}"
LABELS = ("Speech", NASTY, "Never", "Always", "Dog")


@pytest.fixture(scope="module")
def predictions() -> Predictions:
    generator = np.random.default_rng(0)
    targets = generator.random((120, 5)) < [0.5, 0.3, 0, 1, 0.1]
    targets[:, 2:4] = False, True
    scores = {name: 1 / (1 + np.exp(-generator.normal(gain * targets))) for name, gain in (("full", 2), ("1 s", 1))}
    clips = [f"Y<i>{index:07d}.wav" for index in range(120)]
    return Predictions(clips, LABELS, targets, {name: values.astype(np.float32) for name, values in scores.items()})


@pytest.fixture(scope="module")
def summary(predictions: Predictions) -> Summary:
    return summarize(predictions, resamples=50)


@pytest.fixture
def report(summary: Summary) -> Report:
    return Report(summary, {"model": "runs/a/seed_0/best.ckpt", "data": "eval.h5"}, [100, 20, 5, 7, 3])


class Page(HTMLParser):
    """The tags of a page, what they point to, the text of its cells and of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.cells: list[str] = []
        self.scripts: list[str] = []
        self.played: list[str] = []  # keys of sounds
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "action", "srcset")]
        self.played += [value or "" for name, value in attributes if name == "data-sound"]
        if tag in ("td", "script"):
            self.open.append(tag)
            (self.cells if tag == "td" else self.scripts).append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "script"):
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open:
            (self.cells if self.open[-1] == "td" else self.scripts)[-1] += data


def test_json_holds_the_metrics_of_the_classes_with_positives(report: Report, predictions: Predictions) -> None:
    stored = json.loads(json.dumps(as_json(report), allow_nan=False))
    present = [0, 1, 3, 4]
    assert stored["classes_without_positives"] == ["Never"]
    assert stored["classes_without_negatives"] == ["Always"]
    assert list(stored["per_class"]) == [LABELS[index] for index in present]
    for length, scores in predictions.scores.items():
        numbers = stored["metrics"][length]
        targets, values = predictions.targets[:, present], scores[:, present]
        assert numbers["mAP"] == pytest.approx(average_precision_score(targets, values), abs=1e-9)
        assert numbers["micro_mAP"] == pytest.approx(
            average_precision_score(targets, values, average="micro"), abs=1e-9
        )
        areas = [roc_auc_score(targets[:, place], values[:, place]) for place in (0, 1, 3)]
        assert numbers["AUC"] == pytest.approx(np.mean(areas), abs=1e-9)
        assert (numbers["clips"], numbers["classes"]) == (120, 4)
        assert numbers["clip_hash"] == predictions.clip_hash
    assert stored["per_class"]["Always"]["AUC"] is None
    assert stored["per_class"]["Dog"]["train_clips"] == 3
    low, high = stored["metrics"]["full"]["mAP_interval"]
    assert low < stored["metrics"]["full"]["mAP"] < high


AUDIOSET = ("Animal", "Dog", "Bark", "Music", "Rain")


def labelled_by_depth(sources: list[str] | None) -> Predictions:
    """60 clips with the labels of a path in the ontology, e.g. Animal and Dog, and random scores."""
    generator = np.random.default_rng(3)
    paths = [(0,), (0, 1), (0, 1, 2), (3,), (4,), ()]
    targets = np.zeros((60, 5), bool)
    for row, path in zip(targets, generator.integers(6, size=60), strict=True):
        row[list(paths[path])] = True
    scores = (generator.normal(size=(60, 5)) + targets).astype(np.float32)
    return Predictions([f"{n}" for n in range(60)], AUDIOSET, targets, {"full": scores, "1 s": -scores}, sources)


def test_specific_top_hits_count_the_deepest_label() -> None:
    predictions = labelled_by_depth(None)
    overall = summarize(predictions, 10).overall
    depth = [0, 2, 3, 0, 1]  # "Domestic animals, pets" lies between Animal and Dog, "Water" above Rain
    assert predictions.depth.tolist() == depth
    for length, scores in predictions.scores.items():
        shares = metrics.specific_top_hits(predictions.targets, scores, depth)
        assert [overall[length][name] for name in SPECIFIC] == pytest.approx(shares)
    assert overall["full"]["specific_top_1"] > overall["1 s"]["specific_top_1"]


def test_one_class_that_is_not_audioset_s_makes_all_equally_deep(predictions: Predictions) -> None:
    assert predictions.depth.tolist() == [0] * 5
    renamed = replace(labelled_by_depth(None), labels=("Animal", "Dog", "Bark", "Music", "Rex"))
    assert renamed.depth.tolist() == [0] * 5


def test_intervals_are_taken_over_sources(tmp_path: Path) -> None:
    """The same numbers with wider or narrower intervals, said everywhere; sources are stored."""
    sources = [f"package {n // 12}" for n in range(60)]
    by_clip, by_source = (summarize(labelled_by_depth(given), 200) for given in (None, sources))
    assert by_clip.overall == by_source.overall
    report = Report(by_source, {"model": "m", "data": "d"})
    stored = as_json(report)
    assert stored["interval"] == "95 %, bootstrap over 5 sources, 200 resamples"
    draws = bootstrap.resample_clips(60, 200, sources=sources)
    predictions = by_source.predictions
    samples = bootstrap.bootstrap_average_precision(predictions.targets, predictions.scores["full"], draws).mean(1)
    expected = bootstrap.interval(samples, by_source.overall["full"]["mAP"])
    assert stored["metrics"]["full"]["mAP_interval"] == pytest.approx(expected)
    assert by_source.overall_intervals["mAP"] != by_clip.overall_intervals["mAP"]
    hits = metrics.hits(metrics.specific_ranks(predictions.targets, predictions.scores["full"], predictions.depth))
    for place, name in enumerate(SPECIFIC):
        values = bootstrap.bootstrap_mean(hits, draws)[:, place]
        low, high = bootstrap.interval(values, by_source.overall["full"][name])
        bounds = max(low, 0), min(high, 1)
        assert stored["metrics"]["full"][f"{name}_interval"] == pytest.approx(bounds)
        shown = f"{100 * bounds[0]:.2f} to {100 * bounds[1]:.2f}"
        assert f"95 % interval {shown}" in html(report)
    assert "bootstrap over 5 sources" in html(report)
    console = Console(file=io.StringIO(), width=300)
    print_summary(report, console)
    row = next(line for line in console.file.getvalue().splitlines() if "specific top 5" in line)  # type: ignore[attr-defined]
    assert f" {shown} " in row
    write_report(report, tmp_path)
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as arrays:
        assert [source.decode() for source in arrays["sources"]] == sources


def test_a_single_source_gives_no_interval_over_sources() -> None:
    """Drawing the one source again and again would give an interval of no width."""
    alone, unknown = (summarize(labelled_by_depth(given), 50) for given in (["package"] * 60, None))
    assert alone.overall_intervals == unknown.overall_intervals
    assert alone.resampled_units == "clips"


def test_other_sources_are_another_task() -> None:
    """Else a comparison would pair resamples of different clips."""
    targets = np.eye(2, dtype=bool)
    hashes = {hash_targets(["1", "2"], ["a", "b"], targets, sources) for sources in (None, ["x", "x"], ["x", "y"])}
    assert len(hashes) == 3


def test_an_infinite_d_prime_is_valid_json(predictions: Predictions) -> None:
    perfect = replace(predictions, scores={"full": predictions.targets.astype(np.float32)})
    stored = json.loads(
        json.dumps(as_json(Report(summarize(perfect, 10), {"model": "m", "data": "d"})), allow_nan=False)
    )
    assert stored["metrics"]["full"]["AUC"] == 1.0
    assert stored["metrics"]["full"]["d_prime"] is None


def test_files(report: Report, predictions: Predictions, tmp_path: Path) -> None:
    write_report(report, tmp_path / "new" / "folder")
    written = {path.name: path for path in (tmp_path / "new" / "folder").iterdir()}
    assert sorted(written) == ["classes.csv", "metrics.json", "predictions.npz", "report.html"]
    rows = list(csv.DictReader(written["classes.csv"].read_text(encoding="utf-8").splitlines()))
    assert [row["class"] for row in rows] == ["Speech", NASTY, "Always", "Dog"]
    scores = predictions.scores["full"]
    for row, index in zip(rows, (0, 1, 3, 4), strict=True):
        assert float(row["AP"]) == pytest.approx(
            average_precision_score(predictions.targets[:, index], scores[:, index]), abs=1e-9
        )
        assert int(row["positives"]) == predictions.targets[:, index].sum()
        assert (row["clips"], row["clip_hash"]) == ("120", predictions.clip_hash)
    assert rows[2]["AUC"] == ""
    with np.load(written["predictions.npz"], allow_pickle=False) as arrays:
        assert np.array_equal(arrays["scores"], scores)
        assert [name.decode() for name in arrays["clips"]] == list(predictions.clips)
        resampled = {name for name in arrays.files if name.startswith("resampled_")}
        assert resampled == {f"resampled_{name}" for name in ("mAP", *SPECIFIC)}
        assert all(arrays[name].shape == (50,) for name in resampled)
        assert "sources" not in arrays.files


def test_a_failed_write_leaves_the_old_report(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(report, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_report(report, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_page_is_self_contained_and_escapes_names(report: Report) -> None:
    page = Page(html(report))
    assert page.addresses == []
    assert not {"link", "img", "iframe", "base", "object"} & set(page.tags)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|url\(|@import|fetch\(|XMLHttp", html(report))
    assert page.tags.count("script") == 3
    assert NASTY in page.cells
    assert any(cell.startswith("Y<i>0000") for cell in page.cells)
    data = json.loads(page.scripts[0])
    assert [one["name"] for one in data["classes"]] == ["Speech", NASTY, "Always", "Dog"]
    assert data["classes"][0]["curve"][-1][0] == 1.0
    assert "1 class without positives" in html(report)
    assert "Never" in html(report)


def test_page_says_where_training_counts_are_unknown(summary: Summary, report: Report) -> None:
    unknown = replace(report, train_counts=None)
    assert json.loads(Page(html(unknown)).scripts[0])["train"] is False
    assert "Training clips" in html(report)
    assert "Training clips" not in html(unknown)


def test_page_plays_the_sounds_it_holds(report: Report) -> None:
    clips = most_confident(report.summary, positives=True)[0].tolist()
    heard = replace(report, sounds={clips[0]: b"ID3 first", clips[-1]: b"ID3 last"})
    page = Page(html(heard))
    assert page.addresses == []
    assert json.loads(page.scripts[1]) == {str(clip): b64encode(sound).decode() for clip, sound in heard.sounds.items()}
    assert set(page.played) == {str(clips[0]), str(clips[-1])}
    assert Page(html(report)).played == []


@pytest.mark.parametrize("positives", [True, False])
def test_most_confident_mistakes(summary: Summary, predictions: Predictions, positives: bool) -> None:
    """Against the plain loop: the worst first, at most so many of a class, none of a class that is left out."""
    scores = predictions.scores["full"]
    wrong = [
        (scores[clip, index] if positives else -scores[clip, index], clip, index)
        for clip, index in np.argwhere(predictions.targets == positives).tolist()
        if index in (0, 1, 3, 4)
    ]
    expected, taken = [], dict.fromkeys(range(5), 0)
    for _, clip, index in sorted(wrong):
        if taken[index] < MISTAKES_PER_CLASS and len(expected) < MISTAKES:
            expected.append((clip, index))
            taken[index] += 1
    clips, classes = most_confident(summary, positives)
    assert list(zip(clips.tolist(), classes.tolist(), strict=True)) == expected


def test_summary_in_the_terminal(report: Report) -> None:
    console = Console(file=io.StringIO(), width=80)
    print_summary(report, console)
    text: Any = console.file.getvalue()  # type: ignore[attr-defined]
    row = next(line for line in text.splitlines() if "mAP (%)" in line)
    for numbers in report.summary.overall.values():
        assert f" {100 * numbers['mAP']:.2f} " in row
    assert f"120 clips (hash {report.summary.predictions.clip_hash[:8]}), 4 classes" in text
    assert "1 class without positives, left out of every number: Never" in text


def test_summary_of_four_lengths_fits_80_columns_uncut(report: Report) -> None:
    predictions = report.summary.predictions
    scores = dict.fromkeys(("full", "5 s", "2 s", "1 s"), predictions.scores["full"])
    wide = replace(report, summary=summarize(replace(predictions, scores=scores), resamples=20))
    console = Console(file=io.StringIO(), width=80)
    print_summary(wide, console)
    text: Any = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert text.count(f"{100 * wide.summary.overall['full']['lwlrap']:.2f}") == 4


def test_predictions_that_are_not_finite_name_clip_and_class(predictions: Predictions) -> None:
    scores = predictions.scores["full"].copy()
    scores[7, 4] = np.nan
    with pytest.raises(ValueError, match=r"1 scores are not finite, the first for clip 'Y<i>0000007.wav', class 'Dog'"):
        replace(predictions, scores={"full": scores})


def test_shapes_of_predictions_are_checked(predictions: Predictions) -> None:
    with pytest.raises(ValueError, match="2 sources for 120 clips"):
        replace(predictions, sources=["a", "b"])
    with pytest.raises(ValueError, match=r"full: \(119, 5\) for 120 clips and 5 labels"):
        replace(predictions, scores={"full": predictions.scores["full"][1:]})


def test_nothing_to_evaluate_is_an_error(predictions: Predictions) -> None:
    with pytest.raises(ValueError, match="none of the 5 classes has a positive"):
        summarize(replace(predictions, targets=np.zeros_like(predictions.targets)))
