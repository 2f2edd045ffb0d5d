"""Embeddings as they are, or the last stage trained for the class: python studies/few_shot/last_stage.py FILE.h5 ...

The same files, classes and draws as few_shot.py's. The logistic regression on mean embeddings of unit length is where
the training begins: its weights are the classifier's, and the blocks after the last stride learn with it. Prints a
Markdown table: mean average precision over classes and draws.
"""

from __future__ import annotations

import argparse
import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from few_shot import BACKGROUND, SHOTS, WINDOW, choose_classes, spread
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from tqdm import tqdm

from audioset_dcls.evaluation.metrics import average_precision
from audioset_dcls.models import load_checkpoint
from audioset_dcls.tagging.windows import cut_windows
from preprocessing.audio import SAMPLE_RATE
from preprocessing.clips.reader import ClipFile
from preprocessing.log_mel import LogMel

FROZEN = 14  # of the 17 blocks of mn04: the two at the lowest resolution and the last convolution learn
DRAWS = 3
STRENGTH = {5: 0.001, 20: 0.00001}  # scikit-learn's C: the best of few_shot.py
RATES, EPOCHS = (1e-4, 1e-3), (10,)
BATCH = 32


class LastStage(nn.Module):
    """(windows, 64, 4, frames / 32) maps -> (windows,) logits of one class."""

    def __init__(self, blocks: nn.Module, regression: LogisticRegression) -> None:
        super().__init__()
        self.blocks = copy.deepcopy(blocks)
        self.classifier = nn.Linear(regression.coef_.shape[1], 1)
        with torch.no_grad():
            self.classifier.weight.copy_(torch.from_numpy(regression.coef_))
            self.classifier.bias.copy_(torch.from_numpy(regression.intercept_))

    def forward(self, maps: Tensor) -> Tensor:
        return self.classifier(embed(self.blocks, maps))[:, 0]


def embed(blocks: nn.Module, maps: Tensor) -> Tensor:
    """(windows, D), of length sqrt(D)."""
    pooled = blocks(maps).mean((2, 3))
    return F.normalize(pooled) * pooled.shape[1] ** 0.5


def read(files: list[Path], trunk: Any, log_mel: LogMel) -> tuple[Tensor, np.ndarray, np.ndarray, np.ndarray]:
    """Maps of all windows (windows, 64, 4, 16) before the last stage, each one's clip; targets, sources of clips."""
    maps: list[Tensor] = []
    clips: list[int] = []
    targets: list[np.ndarray] = []
    sources: list[str] = []
    for file in map(ClipFile, files):
        before = len(sources)
        targets.append(file.read("target", np.arange(file.clips)))
        sources += file.sources() or []
        for clip in tqdm(range(file.clips), disable=None):
            length = file.samples if file.lengths is None else int(file.lengths[clip])
            samples = file.waveform(clip)[:length].astype(np.float32) / 32768
            for _, window in cut_windows([samples], WINDOW, WINDOW, SAMPLE_RATE // 10):
                whole = torch.from_numpy(np.pad(window, (0, WINDOW - len(window))))
                maps.append(trunk.features[:FROZEN](log_mel(whole[None])).half())
                clips.append(before + clip)
    return torch.cat(maps), np.array(clips), np.concatenate(targets).astype(bool), np.array(sources)


def train(model: LastStage, maps: Tensor, targets: Tensor, rate: float, epochs: int) -> LastStage:
    """With the statistics of its batch norms as they are; both classes weigh the same."""
    model.eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    weight = (targets == 0).sum() / (targets == 1).sum()
    for epoch in range(epochs):
        order = torch.randperm(len(maps), generator=torch.Generator().manual_seed(epoch))
        for batch in order.split(BATCH):
            loss = F.binary_cross_entropy_with_logits(model(maps[batch].float()), targets[batch], pos_weight=weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


@torch.no_grad()
def scores(model: LastStage, maps: Tensor, clips: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The mean logit over the windows of each of the chosen clips."""
    rows = np.flatnonzero(np.isin(clips, chosen))
    logits = torch.cat([model(part.float()) for part in maps[rows].split(256)]).numpy()
    return np.array([logits[clips[rows] == clip].mean() for clip in chosen])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.h5")
    arguments = parser.parse_args()
    tagger = load_checkpoint("embedded").eval().requires_grad_(False)
    with torch.no_grad():
        maps, clips, target, source = read(arguments.files, tagger.trunk, LogMel(tagger.log_mel_settings))
        blocks = tagger.trunk.features[FROZEN:]
        windows = torch.cat([embed(blocks, part.float()) for part in maps.split(256)]).numpy()
    embeddings = np.stack([windows[clips == clip].mean(0) for clip in range(len(target))])
    blocks.requires_grad_(True)
    results: dict[tuple[str, int], list[float]] = {}
    cases = list(itertools.product(range(DRAWS), choose_classes(target, source), SHOTS))
    for draw, number, shots in tqdm(cases, disable=None):
        names = np.random.default_rng(draw).permutation(np.unique(source))
        learning, own = np.isin(source, names[::2]), np.random.default_rng([draw, number, shots])
        positives, test = np.flatnonzero(learning & target[:, number]), np.flatnonzero(~learning)
        if len(set(source[positives])) < 2 or not target[test, number].any():
            continue
        others = np.flatnonzero(learning & ~target[:, number])
        chosen = np.concatenate([spread(positives, source, shots, own), spread(others, source, BACKGROUND, own)])
        regression = LogisticRegression(C=STRENGTH[shots], class_weight="balanced", max_iter=300)
        regression.fit(embeddings[chosen], target[chosen, number])

        def precision(found: np.ndarray, test: np.ndarray = test, number: int = number) -> float:
            return float(average_precision(target[test, number, None], found[:, None])[0])

        found = precision(regression.decision_function(embeddings[test]))
        results.setdefault(("embeddings as they are", shots), []).append(found)
        rows = np.flatnonzero(np.isin(clips, chosen))
        wanted = torch.from_numpy(target[clips[rows], number].astype(np.float32))
        for rate, epochs in itertools.product(RATES, EPOCHS):
            model = train(LastStage(blocks, regression), maps[rows], wanted, rate, epochs)
            name = f"last stage, {epochs} epochs at {rate:g}"
            results.setdefault((name, shots), []).append(precision(scores(model, maps, clips, test)))
    print(f"\n| | {' | '.join(f'{shots} shots' for shots in SHOTS)} |\n|{' --- |' * (1 + len(SHOTS))}")
    for name in dict.fromkeys(name for name, _ in results):
        print(f"| {name} | {' | '.join(f'{np.mean(results[name, shots]):.3f}' for shots in SHOTS)} |")


if __name__ == "__main__":
    main()
