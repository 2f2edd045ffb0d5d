"""What makes a trained network a tagger to hand out: calibrated scores, and silence about what it never learned."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from audioset_dcls.evaluation.calibration import (
    calibration_error,
    f1_thresholds,
    fit_calibration,
    log_loss,
    sigmoid,
)
from audioset_dcls.models.trunks import AudioTagger
from audioset_dcls.models.waveform import WaveformTagger
from preprocessing.clips.layout import ClipFileError
from preprocessing.clips.reader import ClipFile
from preprocessing.loading.coverage import Coverage, class_coverage

MASKED_BIAS = -20.0  # a score of 2e-9
LEAST_CLIPS, LEAST_SOURCES = 5, 3  # of training that have a class, else it is masked


def calibrate_model(
    model: AudioTagger,
    calibration_data: Sequence[Path],
    train_data: Sequence[Path] = (),
    judged_by: AudioTagger | None = None,
) -> AudioTagger:
    """A copy whose scores are probabilities on the calibration clips, with the classes masked that it cannot know.

    Both go into the classifier's weight and bias, exactly: the network is as before and as fast. A class is masked
    unless at least 5 training clips of 3 sources have it, by label or by a teacher's score above 0.5
    (`class_coverage`), or the training began with a tagger that knows it.

    Args:
        calibration_data: HDF5 files of clips that the model was not trained on. Clips are heard without the zeros that
            pad them.
        train_data: HDF5 files it was trained on; by default the counts in the checkpoint's metadata are taken.
        judged_by: the tagger whose scores are fitted, by default the model. If the model was trained on the calibration
            clips, give the tagger that its training began with. Classes that this one masks get the shared bias.

    Returns:
        The copy. Its metadata has in addition "masked", display names, and "calibration": temperature, clips, and
        log-loss and calibration error before and after, on the same clips.

    Raises:
        ClipFileError: files that do not fit. ValueError: nothing tells what was trained, or no class is left.
    """
    known = _known(model, train_data)
    files = _opened(model, calibration_data)
    fitted = known if judged_by is None else known & _known(judged_by, ())
    if not fitted.any():
        raise ValueError(
            f"no class has {LEAST_CLIPS} training clips of {LEAST_SOURCES} sources: all would be masked; train on more"
        )
    logits = score(judged_by or model, files)[:, fitted]
    targets = np.concatenate([file.read("target", np.arange(len(file))) for file in files]).astype(np.bool_)[:, fitted]
    try:
        calibration = fit_calibration(targets, logits)
    except ValueError as error:
        raise ClipFileError(f"{', '.join(map(str, calibration_data))}: {error}") from None
    finished = copy.deepcopy(model)
    with torch.no_grad():
        weight, bias = finished.classifier.weight, finished.classifier.bias
        weight.div_(calibration.temperature)
        bias.div_(calibration.temperature)
        bias.add_(calibration.shared_bias)
        bias[torch.from_numpy(fitted)] += torch.from_numpy(calibration.bias - calibration.shared_bias).float()
        weight[torch.from_numpy(~known)] = 0.0
        bias[torch.from_numpy(~known)] = MASKED_BIAS
    before, after = logits.astype(np.float64), calibration(logits)
    finished.metadata = {
        **model.metadata,
        "masked": [label for label, is_known in zip(files[0].labels, known, strict=True) if not is_known],
        "calibration": {
            "data": [path.name for path in calibration_data],
            "clips": len(logits),
            "temperature": calibration.temperature,
            "log_loss": [log_loss(targets, before), log_loss(targets, after)],
            "calibration_error": [calibration_error(targets, sigmoid(x)) for x in (before, after)],
        },
    }
    return finished


def best_thresholds(model: AudioTagger, data: Sequence[Path]) -> dict[str, float]:
    """Class -> the score of the highest F1 on these clips, of the classes with at least 5; see `f1_thresholds`."""
    files = _opened(model, data)
    targets = np.concatenate([file.read("target", np.arange(len(file))) for file in files]).astype(np.bool_)
    thresholds = f1_thresholds(targets, sigmoid(score(model, files).astype(np.float64)))
    return {files[0].labels[index]: threshold for index, threshold in thresholds.items()}


def score(model: AudioTagger, files: Sequence[ClipFile]) -> NDArray[np.float32]:
    """(N, C) logits of the files' clips, each at its own length."""
    tagger = WaveformTagger(copy.deepcopy(model).eval())
    waveforms = (file.waveform(clip) for file in files for clip in range(len(file)))
    with torch.inference_mode():
        rows = [tagger(torch.from_numpy(waveform[None]))[0] for waveform in waveforms]
    return torch.cat(rows).numpy()


def _known(model: AudioTagger, train_data: Sequence[Path]) -> NDArray[np.bool_]:
    """(C,) whether enough training clips had the class, or the tagger that the training began with knows it."""
    if "starts_from" in model.metadata and not train_data:
        masked = set(model.metadata.get("masked", ()))
        return np.array([label not in masked for label in model.labels or ()])
    coverage = class_coverage(_opened(model, train_data)) if train_data else _stored_coverage(model.metadata)
    if coverage is None or len(coverage.clips) != len(model.labels or ()):
        raise ValueError("the checkpoint does not tell which classes had training data; give it with --train-data")
    return (coverage.clips >= LEAST_CLIPS) & (coverage.sources >= LEAST_SOURCES)


def _stored_coverage(metadata: Mapping[str, Any]) -> Coverage | None:
    counts = metadata.get("train_class_clips"), metadata.get("train_class_sources")
    return None if None in counts else Coverage(*(np.asarray(count) for count in counts))


def _opened(model: AudioTagger, paths: Sequence[Path]) -> list[ClipFile]:
    files = [ClipFile(path) for path in paths]
    for file in files:
        if file.labels != model.labels:
            raise ClipFileError(f"{file.path}: its {len(file.labels)} classes are not the model's")
    return files
