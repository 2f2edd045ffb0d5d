"""What the embedded tagger hears of open sounds, beside its teacher, on files of clips, e.g. the test parts.

    python benchmarks/embedded.py data/open_sounds/test.h5 data/open_sounds/repositories_test.h5 [--parts] [--seconds 5]

Both are scored on the same clips: the tagger as `dcls-tag` hears them, the teacher by its scores of the whole clips,
which are stored in the file. Reported are macro mAP and specific top 1, 3 and 5 (docs/evaluation.md), and the tagger's
share of the teacher's value, each with its 95 % interval over sources; that of the share draws the same sources for
both. The numbers mean nothing for a tagger that was trained on these clips or on others of their sources.

"all" are the classes with a label in the file. "covered" are those of them that the tagger can name, i.e. that are not
masked: their mAP, and the clips whose most specific label is one of them.

`--parts` adds the specific top 3 of the clips of a length, and of those whose most specific label lies below a root of
AudioSet's ontology, if there are 40 such clips of 3 sources.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from audioset_dcls.evaluation import bootstrap, metrics
from audioset_dcls.evaluation.predictions import FULL, Predictions, length_name
from audioset_dcls.evaluation.report import unitless
from audioset_dcls.evaluation.summary import RESAMPLED, TOP_COUNTS
from audioset_dcls.folders import data_folder
from audioset_dcls.tagging.results import Options, Result
from audioset_dcls.tagging.tagger import Tagger
from preprocessing import labels as audioset
from preprocessing.audio import SAMPLE_RATE
from preprocessing.clips.layout import INT16_SCALE
from preprocessing.clips.reader import ClipFile

RESAMPLES = 1000
LENGTHS = (0.0, 1.0, 2.5, 5.0, np.inf)  # s, where the clips are parted
FEWEST_CLIPS, FEWEST_SOURCES = 40, 3  # of a part that is reported
COLUMNS = ("clips of", "length", "classes", "clips", "sources", "metric", "tagger", "teacher", "tagger / teacher")
Estimate: TypeAlias = tuple[float, NDArray[np.float64]]  # a value and its bootstrap samples


class Measured(NamedTuple):
    """Values (4,) of the metrics `RESAMPLED` and their bootstrap samples (resamples, 4)."""

    values: NDArray[np.float64]
    samples: NDArray[np.float64]


def tagger_scores(data: ClipFile, tagger: Tagger, seconds: float | None) -> NDArray[np.float32]:
    """(N, C) of the clips without the zeros that pad them, or of their first seconds."""
    most = None if seconds is None else round(seconds * SAMPLE_RATE)
    clips = (data.waveform(clip)[:most].astype(np.float32) / INT16_SCALE for clip in range(len(data)))
    results = tagger.tag_all(clips, Options(timeline=False, embeddings=False), raise_failures=True)
    return np.stack([result.scores for result in results if isinstance(result, Result)])


def measure(of: Predictions, scores: NDArray[np.float32], covered: NDArray[np.bool_]) -> Measured:
    """mAP over the covered classes; specific top hits of the clips whose most specific label is covered."""
    present = covered & of.targets.any(axis=0)
    ranks = metrics.specific_ranks(of.targets, scores, of.depth, covered)
    hits = metrics.hits(ranks, TOP_COUNTS)
    targets, chosen = of.targets[:, present], scores[:, present]
    draws = bootstrap.resample_clips(len(targets), RESAMPLES, sources=of.resampled)
    resampled_map = bootstrap.mean_of_defined(bootstrap.bootstrap_average_precision(targets, chosen, draws))
    return Measured(
        np.append(metrics.mean_average_precision(targets, chosen), np.nanmean(hits, axis=0)),
        np.column_stack([resampled_map, bootstrap.bootstrap_mean(hits, draws)]),
    )


def rows(path: Path, tagger: Tagger, seconds: float | None, parts: bool) -> Iterator[tuple[object, ...]]:
    """A row for each metric, of all classes and of the covered ones if others are masked; then the parts' rows."""
    data = ClipFile(path)
    if not data.has_teacher:
        raise SystemExit(f"{path}: no teacher's scores in it; give files of dcls-prepare open-sounds")
    rows_of_all = np.arange(len(data))
    targets, teacher = (data.read(column, rows_of_all) for column in ("target", "teacher"))
    scores = tagger_scores(data, tagger, seconds)
    of = Predictions(data.audio_names(), data.labels, targets.astype(np.bool_), {FULL: scores}, data.sources())
    masked = set(tagger.metadata.get("masked", ()))
    everything = np.ones(len(data.labels), np.bool_)
    subsets = {"all": everything}
    if masked:
        subsets["covered"] = np.array([label not in masked for label in data.labels])
    pair = scores, teacher.astype(np.float32)
    for name, classes in subsets.items():
        ours, theirs = (measure(of, values, classes) for values in pair)
        counted = metrics.specific_ranks(of.targets, scores, of.depth, classes) > 0
        size = f"{name}, {(classes & of.targets.any(axis=0)).sum()}"
        for place, metric in enumerate(RESAMPLED):
            of_metric = [(float(one.values[place]), one.samples[:, place]) for one in (ours, theirs)]
            count = counted.sum(), source_count(of, counted)
            yield path.stem, length_name(seconds), size, *count, unitless(metric), *compared(*of_metric)
    if not parts:
        return
    hits = [metrics.hits(metrics.specific_ranks(of.targets, values, of.depth), [3]) for values in pair]
    for name, clips in parts_of(of, data).items():
        sources = None if of.sources is None else np.array(of.sources)[clips].tolist()
        draws = bootstrap.resample_clips(int(np.count_nonzero(clips)), RESAMPLES, sources=sources)
        of_part = [(float(np.nanmean(one[clips])), bootstrap.bootstrap_mean(one[clips], draws)[:, 0]) for one in hits]
        counted = clips & of.targets.any(axis=1)
        count = counted.sum(), source_count(of, counted)
        yield path.stem, length_name(seconds), name, *count, unitless("specific_top_3"), *compared(*of_part)


def source_count(of: Predictions, clips: NDArray[np.bool_]) -> int | str:
    return "n/a" if of.sources is None else len(set(np.array(of.sources)[clips]))


def parts_of(of: Predictions, data: ClipFile) -> dict[str, NDArray[np.bool_]]:
    """Name -> (N,) bool: the clips of a length; those whose most specific label lies below a root, most clips first."""
    seconds = data.clip_lengths() / SAMPLE_RATE
    lengths = {
        f"from {low:g} s" + (f" to {high:g} s" if high < np.inf else ""): (seconds >= low) & (seconds < high)
        for low, high in itertools.pairwise(LENGTHS)
    }
    above = audioset.ancestor_matrix(tuple(of.labels)) | np.eye(len(of.labels), dtype=np.bool_)
    below = metrics.deepest_labels(of.targets, of.depth) @ above
    roots = {of.labels[index]: below[:, index] for index in np.flatnonzero(of.depth == 0).tolist()}
    by_size = sorted(roots.items(), key=lambda item: -np.count_nonzero(item[1]))
    sources = np.array(of.sources if of.sources is not None else of.clips)
    return {
        name: clips
        for name, clips in (*lengths.items(), *by_size)
        if np.count_nonzero(clips) >= FEWEST_CLIPS and len(set(sources[clips])) >= FEWEST_SOURCES
    }


def compared(ours: Estimate, theirs: Estimate) -> tuple[str, str, str]:
    """Both with their intervals, and ours as a share of theirs; "n/a" if theirs may be 0."""
    share = with_interval(ours[0] / theirs[0], ours[1] / theirs[1]) if theirs[1].min() > 0 else "n/a"
    return with_interval(*ours), with_interval(*theirs), share


def with_interval(value: float, samples: NDArray[np.float64]) -> str:
    low, high = bootstrap.interval(samples, value)
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--model", type=Path, default=data_folder("checkpoints") / "tagger.onnx")
    parser.add_argument("--seconds", nargs="*", type=float, default=[], help="cut the clips to these lengths too")
    parser.add_argument("--parts", action="store_true", help="also by length and by kind of sound")
    options = parser.parse_args()
    tagger = Tagger(options.model)
    print("| " + " | ".join(COLUMNS) + " |\n|" + " --- |" * len(COLUMNS))
    for path in options.files:
        for seconds in (None, *options.seconds):
            for row in rows(path, tagger, seconds, options.parts):
                print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main()
