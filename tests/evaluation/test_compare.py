"""Comparison of runs over seeds, on folders as dcls-train and dcls-eval leave them; intervals against scipy."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from scipy.stats import ttest_rel

from audioset_dcls.evaluation import bootstrap, metrics
from audioset_dcls.evaluation.compare import compare
from audioset_dcls.evaluation.compare_report import print_comparison, write_comparison
from audioset_dcls.evaluation.predictions import Predictions
from audioset_dcls.evaluation.report import Report
from audioset_dcls.evaluation.report_files import write_report
from audioset_dcls.evaluation.runs import read_run
from audioset_dcls.evaluation.summary import summarize
from preprocessing.files import sha256_of

TARGETS = np.random.default_rng(0).random((80, 4)) < 0.3


def make_run(folder: Path, gain: float, seed: int, clips: str = "clip") -> np.ndarray:
    """A run folder with a checkpoint and its evaluation; returns the scores."""
    generator = np.random.default_rng((seed, int(100 * gain)))
    scores = generator.normal(gain * TARGETS).astype(np.float32)
    names = [f"{clips}{index}" for index in range(len(TARGETS))]
    predictions = Predictions(names, list("abcd"), TARGETS, {"full": scores, "1 s": scores})
    folder.mkdir(parents=True)
    (folder / "best.ckpt").write_bytes(bytes([seed]))
    about = {
        "model": "best.ckpt",
        "data": "eval.h5",
        "model_sha256": sha256_of(folder / "best.ckpt"),
        "parameters": 1000,
    }
    write_report(Report(summarize(predictions, 200), about), folder / "best-on-eval")
    return scores


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[np.ndarray]]]:
    folder = tmp_path_factory.mktemp("runs")
    gains = {"paper/dcls": 1.5, "paper/plain": 1.0}
    scores = {
        name: [make_run(folder / name / f"seed_{seed}", gain, seed) for seed in (0, 1, 10)]
        for name, gain in gains.items()
    }
    return folder, scores


def test_mean_and_sample_std(study: tuple[Path, dict[str, list[np.ndarray]]], tmp_path: Path) -> None:
    folder, scores = study
    comparison, left_out = compare(folder)
    assert left_out == {}
    assert comparison.experiments == ["paper/dcls", "paper/plain"]
    assert [run.seed for run in comparison.of("paper/dcls")] == [0, 1, 10]
    write_comparison(comparison, tmp_path)
    rows = list(csv.DictReader((tmp_path / "experiments.csv").read_text().splitlines()))
    for name, runs in scores.items():
        values = [metrics.mean_average_precision(TARGETS, one) for one in runs]
        row = next(row for row in rows if (row["experiment"], row["metric"]) == (name, "mAP"))
        assert float(row["mean"]) == pytest.approx(np.mean(values), abs=1e-12)
        assert float(row["sample_std"]) == pytest.approx(np.std(values, ddof=1), abs=1e-12)
        assert (row["seeds"], row["clips"]) == ("3", "80")
        assert (
            f"{100 * np.mean(values):.2f} ± {100 * np.std(values, ddof=1):.2f}"
            in (tmp_path / "comparison.md").read_text()
        )
    assert {row["metric"] for row in rows} >= {
        *("mAP", "specific_top_1", "specific_top_3", "specific_top_5"),
        *("AUC", "d_prime", "lwlrap", "micro_mAP", "mAP 1 s", "parameters"),
    }
    assert len(list(csv.DictReader((tmp_path / "runs.csv").read_text().splitlines()))) == 6


def test_paired_difference(study: tuple[Path, dict[str, list[np.ndarray]]]) -> None:
    folder, scores = study
    difference, of_hits = compare(folder)[0].differences()
    assert (difference.metric, of_hits.metric) == ("mAP", "specific_top_3")
    values = {name: [metrics.mean_average_precision(TARGETS, one) for one in runs] for name, runs in scores.items()}
    reference = ttest_rel(values["paper/dcls"], values["paper/plain"]).confidence_interval(0.95)
    assert difference.seeds == (0, 1, 10)
    assert difference.mean == pytest.approx(np.mean(values["paper/dcls"]) - np.mean(values["paper/plain"]), abs=1e-12)
    assert difference.seed_interval == pytest.approx((reference.low, reference.high), abs=1e-9)
    # over sources, here clips: both models of every seed on the same drawn clips, one by one
    generator, samples = np.random.default_rng(0), []
    for _ in range(200):
        drawn = generator.integers(80, size=80)
        means = [
            np.mean([metrics.mean_average_precision(TARGETS[drawn], one[drawn]) for one in scores[name]])
            for name in ("paper/dcls", "paper/plain")
        ]
        samples.append(means[0] - means[1])
    assert difference.source_interval == pytest.approx(bootstrap.interval(samples, difference.mean), abs=1e-9)
    shares = [
        np.mean([metrics.specific_top_hits(TARGETS, one, np.zeros(4), [3])[0] for one in scores[name]])
        for name in ("paper/dcls", "paper/plain")
    ]
    assert of_hits.mean == pytest.approx(shares[0] - shares[1], abs=1e-12)
    assert of_hits.source_interval is not None
    assert of_hits.source_interval[0] < of_hits.mean < of_hits.source_interval[1]


def test_files_and_terminal(study: tuple[Path, dict[str, list[np.ndarray]]], tmp_path: Path) -> None:
    comparison, _ = compare(study[0])
    write_comparison(comparison, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "comparison.md",
        "differences.csv",
        "differences.png",
        "experiments.csv",
        "experiments.png",
        "runs.csv",
    ]
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 5  # something is drawn
        assert f"({path.name})" in (tmp_path / "comparison.md").read_text()
    text = (tmp_path / "comparison.md").read_text()
    assert "| mAP (%), 1 s | parameters | Clips | Clip hash |" in text
    assert f"| 1,000 | 80 | {comparison.runs[0].clip_hash[:8]} |" in text
    console = Console(file=io.StringIO(), width=160)
    print_comparison(comparison, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "paper/dcls - paper/plain: +" in text
    assert "80 clips" in text


def test_seeds_that_only_one_has_do_not_count(tmp_path: Path) -> None:
    make_run(tmp_path / "a" / "seed_0", 1.0, 0)
    make_run(tmp_path / "a" / "seed_1", 1.0, 1)
    make_run(tmp_path / "b" / "seed_1", 1.3, 1)
    difference, _ = compare(tmp_path)[0].differences()
    assert difference.seeds == (1,)
    assert difference.seed_interval is None
    assert difference.std is None
    assert difference.source_interval is not None
    comparison = compare(tmp_path)[0]
    write_comparison(comparison, tmp_path / "comparison")
    assert "n/a (one seed)" in (tmp_path / "comparison" / "comparison.md").read_text()


def test_differences_from_one_experiment(tmp_path: Path) -> None:
    for name, gain in {"a": 1.0, "b": 1.5, "c": 0.5}.items():
        make_run(tmp_path / name / "seed_0", gain, 0)
    better = [one for one in compare(tmp_path)[0].differences() if {one.first, one.second} == {"a", "b"}]
    differences = compare(tmp_path, baselines=["a"])[0].differences()
    assert [(one.first, one.second) for one in differences] == [("b", "a")] * 2 + [("c", "a")] * 2
    assert differences[:2] == better
    assert differences[2].mean < 0
    with pytest.raises(ValueError, match=r"no experiment 'd' to compare with; there are \['b', 'a', 'c'\]"):
        compare(tmp_path, baselines=["a", "d"])


def test_each_is_compared_with_what_its_name_begins_with(tmp_path: Path) -> None:
    for name in ("x", "x_dcls", "x_dcls_large", "x_small", "y", "y_dcls"):
        make_run(tmp_path / name / "seed_0", 1.0, 0)
    comparison = compare(tmp_path, baselines=["x", "x_dcls"])[0]
    pairs = {one.first: one.second for one in comparison.differences()}
    assert pairs == {"x_dcls": "x", "x_dcls_large": "x_dcls", "x_small": "x", "y": "x", "y_dcls": "x"}


def test_runs_on_different_clips_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "a" / "seed_0", 1.0, 0)
    make_run(tmp_path / "b" / "seed_0", 1.0, 0, clips="other")
    with pytest.raises(ValueError, match="different clips or labels; add --data"):
        compare(tmp_path)


def test_runs_without_a_valid_evaluation_are_left_out_and_named(tmp_path: Path) -> None:
    for seed in range(4):
        make_run(tmp_path / "a" / f"seed_{seed}", 1.0, seed)
    (tmp_path / "a" / "seed_1" / "best.ckpt").write_bytes(b"trained on")
    (tmp_path / "a" / "seed_2" / "best-on-eval" / "metrics.json").write_text('{"metrics": {"fu')
    (tmp_path / "a" / "seed_5").mkdir()
    write_log(tmp_path / "a" / "seed_3", [0.1, 0.2], epochs=60)
    write_log(tmp_path / "a" / "seed_6", [], epochs=60)
    comparison, left_out = compare(tmp_path)
    assert [run.seed for run in comparison.runs] == [0]
    assert len(left_out) == 5
    reasons = {1: "older best.ckpt", 2: "damaged", 3: "2 of 60 epochs", 5: "add --data", 6: "0 of 60 epochs"}
    for seed, reason in reasons.items():
        assert any(f"seed_{seed}:" in line and reason in line for line in left_out.values()), left_out


BROKEN = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "binary": lambda content: b"\xff\xfe\x00" + content,
    "list": lambda content: b"[1, 2]",
    "nested": lambda content: b'{"metrics": {"full": 3}, "model_sha256": [], "clips": "many", "target_hash": [1]}',
    "text": lambda content: b"epoch,val/map\nmany,0.5\n",
    "yaml": lambda content: b"epochs: [1, {",
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_run_is_left_out_in_one_line(damage: str, tmp_path: Path) -> None:
    """Each file of a run in turn; the whole run beside it is compared."""
    files = [
        "csv/metrics.csv",
        "config.yaml",
        "metrics.json",
        "best-on-eval/metrics.json",
        "best-on-eval/predictions.npz",
    ]
    for seed in range(len(files) + 1):
        folder = tmp_path / "a" / f"seed_{seed}"
        make_run(folder, 1.0, seed)
        write_log(folder, [0.1, 0.2], epochs=2)
        (folder / "metrics.json").write_text('{"hours": 1.5}')
        assert read_run(folder, "a", "best-on-eval").metrics["hours"] == 1.5
    broken = [tmp_path / "a" / f"seed_{seed}" / name for seed, name in enumerate(files)]
    for path in broken:
        path.write_bytes(BROKEN[damage](path.read_bytes()))
    comparison, left_out = compare(tmp_path)
    write_comparison(comparison, tmp_path / "comparison")
    for line in left_out.values():
        assert "\n" not in line
    assert {run.seed for run in comparison.runs} >= {len(files)}
    assert len(left_out) + len(comparison.runs) == len(files) + 1
    for path, name in zip(broken[3:], files[3:], strict=True):  # an evaluation that is not whole is never used
        assert any(line.startswith(f"{path.parent.parent}:") and name in line for line in left_out.values()), left_out


def write_log(folder: Path, scores: list[float], epochs: int) -> None:
    """csv/metrics.csv and config.yaml as dcls-train writes them."""
    (folder / "csv").mkdir(parents=True)
    rows = [f"{epoch},{epoch * 10 + 9},{score},\n{epoch},{epoch * 10 + 5},,0.7\n" for epoch, score in enumerate(scores)]
    (folder / "csv" / "metrics.csv").write_text("epoch,step,val/map,train/loss\n" + "".join(rows))
    (folder / "config.yaml").write_text(f"name: a\nepochs: {epochs}\n")


def test_without_evaluations_the_logs_best_validation_counts(tmp_path: Path) -> None:
    write_log(tmp_path / "a" / "seed_0", [0.1, 0.4, 0.3], epochs=3)
    write_log(tmp_path / "b" / "seed_0", [0.2, 0.25, 0.3], epochs=3)
    (tmp_path / "b" / "seed_0" / "metrics.json").write_text(json.dumps({"hours": 1.5, "note": "text"}))
    comparison, left_out = compare(tmp_path)
    assert left_out == {}
    assert comparison.values("a", "mAP") == [0.4]
    assert comparison.values("b", "hours") == [1.5]
    assert "validation" in comparison.counted
    write_comparison(comparison, tmp_path / "comparison")
    assert (tmp_path / "comparison" / "curves.png").stat().st_size > 5000
    assert "| a | 0 | 40.00 | n/a | n/a | n/a |" in (tmp_path / "comparison" / "comparison.md").read_text()


def test_several_evaluations_need_a_name(tmp_path: Path) -> None:
    make_run(tmp_path / "a" / "seed_0", 1.0, 0)
    (tmp_path / "a" / "seed_0" / "best-on-esc50").mkdir()
    with pytest.raises(ValueError, match=r"several files \(best-on-esc50, best-on-eval\); add --data"):
        compare(tmp_path)
    assert len(compare(tmp_path, "eval")[0].runs) == 1


def test_a_folder_without_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no runs; expected <experiment>/seed_<n>/"):
        compare(tmp_path)
