"""A tagger exported with cropped kernels (`fold`), against the same with whole ones: a window's time, and the scores.

    python benchmarks/crop.py [CHECKPOINT] [--position-std 0.5 1 2 3] [--seconds 2.56] [--repeats 200]

Without a checkpoint: the study's small_convnext, untrained, its positions drawn from N(0, std) cells around
the centre, for each std. ONNX Runtime, one thread, one window at a time; the two files take turns, times are the
fastest of --repeats.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from audioset_dcls.dcls import dcls_layers, fold
from audioset_dcls.export.onnx import export
from audioset_dcls.models import AudioTagger, create_model, load_checkpoint
from audioset_dcls.tagging.session import OnnxModel
from preprocessing.constants import SAMPLE_RATE

STUDY = Path(__file__).parents[1] / "studies" / "open_sounds" / "configs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path)
    parser.add_argument("--position-std", nargs="+", type=float, default=[0.5, 1.0, 2.0, 3.0])
    parser.add_argument("--seconds", type=float, default=2.56)
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    print("| positions | whole, ms | cropped, ms | ratio | cropped to | largest difference of a score |")
    print("| --- | --- | --- | --- | --- | --- |")
    if options.checkpoint:
        models = {options.checkpoint.name: load_checkpoint(options.checkpoint)}
    else:
        models = {f"std {std:g}": create(std) for std in options.position_std}
    for name, model in models.items():
        print(f"| {name} | {row(model, options.seconds, options.repeats)} |", flush=True)


def create(position_std: float) -> AudioTagger:
    torch.manual_seed(0)
    settings: Any = OmegaConf.to_container(OmegaConf.load(STUDY / "model/small_convnext.yaml"))
    model = create_model(**{name: value for name, value in settings.items() if name != "_target_"}).eval()
    for layer in dcls_layers(model):
        torch.nn.init.normal_(layer.positions, 0, position_std)
        layer.clamp_positions()
        torch.nn.init.normal_(layer.weight, 0, 0.2)
    torch.nn.init.normal_(model.classifier.weight, 0, 0.3)  # else all scores are nearly the same
    return model


def row(model: AudioTagger, seconds: float, repeats: int) -> str:
    waveform = np.random.default_rng(0).normal(0, 0.1, (1, round(seconds * SAMPLE_RATE))).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        # what is a plain convolution already is left as it is
        export(fold(copy.deepcopy(model), tolerance=None, plain=True), Path(folder) / "whole.onnx")
        cropped = export(model, Path(folder) / "cropped.onnx")
        taggers = [OnnxModel(Path(folder) / f"{name}.onnx") for name in ("whole", "cropped")]
        scores = [tagger.run(waveform)[0] for tagger in taggers]
        times: tuple[list[float], list[float]] = [], []
        for _ in range(repeats):
            for tagger, taken in zip(taggers, times, strict=True):
                began = time.perf_counter()
                tagger.run(waveform)
                taken.append(time.perf_counter() - began)
    before, after = (1000 * min(taken) for taken in times)
    difference = np.abs(scores[0] - scores[1]).max()
    return f"{before:.2f} | {after:.2f} | {after / before:.2f} | {cropped.kernels} | {difference:.0e}"


if __name__ == "__main__":
    main()
