"""What makes a trained network a tagger to hand out: calibrated scores, and silence about what it never learned."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from audioset_dcls.dcls import fold
from audioset_dcls.evaluation.calibration import calibration_error, fit_calibration, log_loss
from audioset_dcls.models.trunks import AudioTagger
from preprocessing.hdf5 import INT16_SCALE, ClipFile, ClipFileError
from preprocessing.log_mel import LogMel
from preprocessing.scenes import Recordings, load_recordings

MASKED_BIAS = -20.0  # a score of 2e-9


def finish(
    model: AudioTagger,
    calibration_data: Path,
    train_data: Sequence[Path] = (),
    judged_by: AudioTagger | None = None,
) -> AudioTagger:
    """A copy whose scores are probabilities on `calibration_data`, with the classes masked that no training clip had.

    Both go into the classifier's weight and bias, exactly: the network is as before and as fast. A class counts as
    trained where a clip is labelled with it: a teacher's scores alone are hearsay that no label ever checked.

    judged_by: the tagger whose scores are fitted, by default the model: for a last training on all clips, those of
        `calibration_data` too, the tagger that it began with, which has not heard them. Classes which that one has not
        learned get the shared bias.
    train_data: HDF5 files it was trained on; by default the counts in the checkpoint's metadata are taken. Clips are
    heard as `dcls-tag` hears them, without the zeros that pad them.

    The copy's metadata gets "masked", the display names, and "calibration": temperature, clips, and log-loss and
    calibration error before and after, on the same clips.

    Raises ClipFileError for files that do not fit, and ValueError where nothing tells what was trained.
    """
    trained = _trained(model, train_data)
    labels = ClipFile(calibration_data).labels
    if labels != model.labels:
        raise ClipFileError(f"{calibration_data}: its {len(labels)} classes are not the model's")
    recordings = load_recordings([calibration_data])
    fitted = trained if judged_by is None else trained & _trained(judged_by, ())
    logits = score(judged_by or model, recordings)[:, fitted]
    targets = recordings.target[:, fitted]
    try:
        calibration = fit_calibration(targets, logits)
    except ValueError as error:
        raise ClipFileError(f"{calibration_data}: {error}") from None
    finished = copy.deepcopy(model)
    with torch.no_grad():
        weight, bias = finished.classifier.weight, finished.classifier.bias
        weight.div_(calibration.temperature)
        bias.div_(calibration.temperature)
        bias.add_(calibration.shared_bias)
        bias[torch.from_numpy(fitted)] += torch.from_numpy(calibration.bias - calibration.shared_bias).float()
        weight[torch.from_numpy(~trained)] = 0.0
        bias[torch.from_numpy(~trained)] = MASKED_BIAS
    before, after = logits.astype(np.float64), calibration(logits)
    finished.metadata = {
        **model.metadata,
        "masked": [label for label, known in zip(labels, trained, strict=True) if not known],
        "calibration": {
            "data": calibration_data.name,
            "clips": len(recordings),
            "temperature": calibration.temperature,
            "log_loss": [log_loss(targets, before), log_loss(targets, after)],
            "calibration_error": [calibration_error(targets, _sigmoid(x)) for x in (before, after)],
        },
    }
    return finished


def score(model: AudioTagger, recordings: Recordings) -> NDArray[np.float32]:
    """(N, C) logits of the recordings, each at its own length."""
    folded, log_mel = fold(copy.deepcopy(model).eval()), LogMel()
    with torch.inference_mode():
        rows = [
            folded(log_mel(torch.from_numpy(waveform[None]).float() / INT16_SCALE)) for waveform in recordings.waveforms
        ]
    return torch.cat(rows).numpy()


def _trained(model: AudioTagger, train_data: Sequence[Path]) -> NDArray[np.bool_]:
    """(C,) whether a training clip had the label."""
    files = [ClipFile(path) for path in train_data]
    for file in files:
        if file.labels != model.labels:
            raise ClipFileError(f"{file.path}: its classes are not the model's")
    counts = sum(file.label_counts() for file in files) if files else model.metadata.get("train_label_counts")
    if counts is None:
        raise ValueError("the checkpoint does not tell which classes had training data; give it with --train-data")
    return np.asarray(counts) > 0


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = 0.5 * (1 + np.tanh(logits / 2))
    return result
