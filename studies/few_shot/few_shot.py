"""Which embedding is best to learn a class from a handful of clips: python studies/few_shot/few_shot.py FILE.h5 ...

FILE.h5: clips with sources that the tagger was not trained on (open sounds' test.h5 and repositories_test.h5). Ten
classes with the most sources, none of them above another class; in each of several draws half of the sources are for
learning, half for testing. Prints a Markdown table: mean average precision over classes and draws, by embedding and
number of shots.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from sklearn.linear_model import LogisticRegression

from audioset_dcls.evaluation.metrics import average_precision
from audioset_dcls.tagging.session import open_session
from audioset_dcls.tagging.tagger import embedded_tagger
from audioset_dcls.tagging.windows import cut_windows
from preprocessing.audio import SAMPLE_RATE
from preprocessing.clips.reader import ClipFile
from preprocessing.labels import descendants, labels

CLASSES, DRAWS, SHOTS, BACKGROUND = 10, 10, (5, 20), 100
STRENGTHS = (0.00001, 0.0001, 0.001, 0.01, 0.1, 1.0)  # scikit-learn's C
WINDOW = 5 * SAMPLE_RATE

Rows = np.ndarray  # (clips, D)


def read(files: list[Path], cache: Path) -> dict[str, np.ndarray]:
    """The embeddings of all clips, means over their windows; kept in `cache`."""
    if cache.exists():
        with np.load(cache) as stored:
            return dict(stored)
    model = onnx.load(embedded_tagger())
    producers = {output: node for node in model.graph.node for output in node.output}
    features = producers[producers["embedding"].input[0]].input[0]  # Flatten <- GlobalAveragePool <- map
    hidden = producers[producers["scores"].input[0]].input[0]  # Sigmoid <- Gemm <- hidden layer
    for name in (features, hidden):
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    extended = cache.with_suffix(".onnx")
    onnx.save(model, extended)
    session = open_session(extended, ["CPUExecutionProvider"], memory_pattern=False)
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("mean", "largest", "over_windows", "hidden", "scores")}
    targets, sources = [], []
    for file in map(ClipFile, files):
        targets.append(file.read("target", np.arange(file.clips)))
        sources += file.sources() or []
        for clip in range(file.clips):
            length = file.samples if file.lengths is None else int(file.lengths[clip])
            samples = file.waveform(clip)[:length].astype(np.float32) / 32768
            windows = [window for _, window in cut_windows([samples], WINDOW, WINDOW, SAMPLE_RATE // 10)]
            outputs = [
                session.run(["embedding", features, hidden, "scores"], {"waveform": window[None]}) for window in windows
            ]
            mean, maps, inner, scores = (
                np.concatenate(values) if number != 1 else values
                for number, values in enumerate(zip(*outputs, strict=True))
            )
            found["mean"].append(mean.mean(0))
            found["over_windows"].append(mean.max(0))
            found["largest"].append(np.mean([values[0].max((1, 2)) for values in maps], axis=0))
            found["hidden"].append(inner.mean(0))
            found["scores"].append(scores.mean(0))
    stored = {name: np.stack(rows) for name, rows in found.items()}
    stored |= {"target": np.concatenate(targets).astype(bool), "source": np.array(sources)}
    np.savez(cache, **stored)  # type: ignore[arg-type]
    return stored


def unit(rows: Rows) -> Rows:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9) * np.sqrt(rows.shape[1])


def standard(rows: Rows, pool: Rows) -> Rows:
    return (rows - pool.mean(0)) / (pool.std(0) + 1e-3)


def whitened(rows: Rows, pool: Rows) -> Rows:
    """Principal components of the pool, each to variance 1, with a tenth of the mean variance against noise."""
    values, vectors = np.linalg.eigh(np.cov(pool.T))
    return (rows - pool.mean(0)) @ vectors / np.sqrt(np.maximum(values, 0) + 0.1 * values.mean())


def variants(data: dict[str, np.ndarray]) -> dict[str, Callable[[np.ndarray], Rows]]:
    """Name -> (clips whose statistics may be used) -> rows."""
    mean, largest, spread = data["mean"], data["largest"], data["over_windows"]
    logits = np.log(np.clip(data["scores"], 1e-6, 1 - 1e-6) / (1 - np.clip(data["scores"], 1e-6, 1 - 1e-6)))

    def both(second: Rows) -> Callable[[np.ndarray], Rows]:
        return lambda pool: np.hstack([standard(mean, mean[pool]), standard(second, second[pool])])

    return {
        "mean over time, as it is": lambda pool: mean,
        "mean, unit length": lambda pool: unit(mean),
        "mean, standardised": lambda pool: standard(mean, mean[pool]),
        "mean, unit length, standardised": lambda pool: standard(unit(mean), unit(mean)[pool]),
        "mean, whitened": lambda pool: whitened(mean, mean[pool]),
        "mean, unit length, whitened": lambda pool: whitened(unit(mean), unit(mean)[pool]),
        "mean and maximum over time, standardised": both(largest),
        "mean and maximum over windows, standardised": both(spread),
        "hidden layer of the head, as it is": lambda pool: data["hidden"],
        "hidden layer, standardised": lambda pool: standard(data["hidden"], data["hidden"][pool]),
        "logits of the 527 classes, standardised": lambda pool: standard(logits, logits[pool]),
    }


def choose_classes(target: np.ndarray, source: np.ndarray) -> list[int]:
    """The most specific classes with the most sources, of at least as many clips as there are shots."""
    names = [label.display_name for label in labels()]
    fit = [
        number for number, name in enumerate(names) if not descendants(name) and target[:, number].sum() >= max(SHOTS)
    ]
    return sorted(fit, key=lambda number: -len(set(source[target[:, number]])))[:CLASSES]


def spread(clips: np.ndarray, source: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of the clips, in turns of their sources, so that as many sources as there are take part."""
    queues = [list(rng.permutation(clips[source[clips] == name])) for name in rng.permutation(np.unique(source[clips]))]
    turns = [clip for turn in itertools.zip_longest(*queues) for clip in turn if clip is not None]
    return np.array(turns[:count])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.h5")
    parser.add_argument("--cache", type=Path, default=Path("few_shot.npz"), metavar="NPZ")
    arguments = parser.parse_args()
    data = read(arguments.files, arguments.cache)
    target, source = data["target"], data["source"]
    classes = choose_classes(target, source)
    results: dict[tuple[str, int], list[list[float]]] = {}
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        names = rng.permutation(np.unique(source))
        learning = np.isin(source, names[::2])
        pool = np.flatnonzero(learning)
        for name, make in variants(data).items():
            rows = make(pool)
            for number, shots in itertools.product(classes, SHOTS):
                own = np.random.default_rng([draw, number, shots])
                positives = np.flatnonzero(learning & target[:, number])
                if len(set(source[positives])) < 2 or not target[~learning, number].any():
                    continue
                chosen = spread(positives, source, shots, own)
                others = spread(np.flatnonzero(learning & ~target[:, number]), source, BACKGROUND, own)
                train = np.concatenate([chosen, others])
                scores = []
                for strength in STRENGTHS:
                    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=300)
                    model.fit(rows[train], target[train, number])
                    found = model.decision_function(rows[~learning])
                    scores.append(float(average_precision(target[~learning, number, None], found[:, None])[0]))
                results.setdefault((name, shots), []).append(scores)
    print("classes:", "; ".join(labels()[number].display_name for number in classes))
    print(f"\n| embedding | {' | '.join(f'{shots} shots (C)' for shots in SHOTS)} |\n|{' --- |' * (1 + len(SHOTS))}")
    for name in variants(data):
        cells = []
        for shots in SHOTS:
            means = np.mean(results[name, shots], axis=0)
            cells.append(f"{means.max():.3f} ({STRENGTHS[int(means.argmax())]:g})")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
