"""What an ONNX file must have to be a tagger, whoever wrote it; docs/api.md says it for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from preprocessing.files import atomic_write

INPUT = "waveform"
SCORES, EMBEDDING, LOG_MEL = "scores", "embedding", "log_mel"
LABELS, SAMPLE_RATE = "labels", "sample_rate"  # entries of the metadata
_SHOWN = ("clip_seconds", "hop_seconds", "masked")  # what a labels file repeats of the metadata, if it is there


def missing(
    inputs: Iterable[tuple[str, str, Sequence[Any]]], outputs: Iterable[str], metadata: Mapping[str, str]
) -> list[str]:
    """What a file lacks to be a tagger, in words; [] if nothing.

    Args:
        inputs: name, type and shape of each, as ONNX Runtime has them; a dynamic axis is a name or None.
    """
    given = {name: (kind, shape) for name, kind, shape in inputs}
    lacks = []
    if INPUT not in given:
        lacks.append(f'an input "{INPUT}"')
    else:
        kind, shape = given[INPUT]
        if kind != "tensor(float)":
            lacks.append(f'float32 in "{INPUT}" (it takes {kind})')
        if len(shape) != 2 or any(isinstance(axis, int) for axis in shape):
            lacks.append(f'dynamic axes (batch, samples) of "{INPUT}" (it has {list(shape)})')
    lacks += [f'a value for its input "{name}"' for name in given if name != INPUT]
    if SCORES not in outputs:
        lacks.append(f'an output "{SCORES}"')
    lacks += [f'"{key}" in its metadata' for key in (LABELS, SAMPLE_RATE) if key not in metadata]
    return lacks


def labels_file(model: Path) -> Path:
    """Where the labels of an ONNX file stand for programs that cannot read its metadata: tagger.labels.json."""
    return model.with_suffix(".labels.json")


def write_labels(model: Path, labels: Sequence[str], sample_rate: int, metadata: Mapping[str, Any]) -> None:
    """Write `labels_file`: a JSON object with what is needed to use the ONNX file's scores. Whole or not at all."""
    facts = {
        LABELS: list(labels),
        SAMPLE_RATE: sample_rate,
        **{key: metadata[key] for key in _SHOWN if key in metadata},
    }
    with atomic_write(labels_file(model)) as unfinished:
        unfinished.write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
