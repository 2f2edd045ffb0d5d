"""A checkpoint as one self-contained ONNX file: waveform in, scores and embedding out."""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.onnx.operators import shape_as_tensor

from audioset_dcls.dcls import Folded, fold
from audioset_dcls.export.log_mel import MatmulLogMel
from audioset_dcls.export.quantize import Loss, cut_recordings, measure_loss, store_as_float16, store_as_int8
from audioset_dcls.models.trunks import AudioTagger, reparameterize
from audioset_dcls.tagging.contract import write_labels
from audioset_dcls.tagging.session import FORMAT
from preprocessing.constants import HOP, N_FFT, SAMPLE_RATE
from preprocessing.labels import labels as audioset_labels

PRECISIONS = ("float32", "float16", "int8")
_OPSET = 17
_SHORTEST = N_FFT // 2 + 1  # samples that the reflection at the ends needs, after pre-emphasis


@dataclass(frozen=True)
class Exported:
    """What `export` wrote."""

    path: Path
    megabytes: float
    precision: str
    loss: Loss | None  # None if there were no recordings to measure it on
    layers: Sequence[Folded]  # whose kernels were cropped as far as the output allows

    @property
    def kernels(self) -> str:
        """What was cropped, in words: "23 x 23 to 11 x 9 (2), 23 x 23 to 13 x 13 (1)"; "none" if nothing was."""
        sizes = Counter(
            f"{_area(layer.kernel_size)} to {_area(layer.cropped_size)}"
            for layer in self.layers
            if layer.cropped_size != layer.kernel_size
        )
        return ", ".join(f"{text} ({count})" for text, count in sizes.items()) or "none"


class _Graph(nn.Module):
    """The folded tagger from waveform to scores, with the log-mel in front."""

    def __init__(self, model: AudioTagger) -> None:
        super().__init__()
        self.log_mel = MatmulLogMel(model.log_mel_settings)
        self.model = model

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # what LogMel and AudioTagger do with clips shorter than an FFT or than the trunk's stride, without a branch
        samples = shape_as_tensor(waveform)[1]
        settings = self.model.log_mel_settings
        frames = (samples - settings.dropped).clamp(min=0) // HOP + 1
        shortest = _SHORTEST + settings.dropped
        waveform = F.pad(waveform, (0, shortest))[:, : samples.clamp(min=shortest)]
        log_mel = self.log_mel(waveform)[..., :frames]
        shortest = self.model.minimum_frames
        log_mel = F.pad(log_mel, (0, shortest), value=settings.silence)[..., : frames.clamp(min=shortest)]
        features = self.model.forward_features(log_mel)
        scores = torch.sigmoid(self.model.forward_head(features))
        return scores, self.model.forward_head(features, pre_logits=True), log_mel


def export(
    model: AudioTagger, path: str | Path, precision: str = "float32", recordings: Iterable[str | Path] = ()
) -> Exported:
    """Write a tagger as ONNX: DCLS folded, FastViT's branches merged, the log-mel inside.

    Input "waveform" (batch, samples) float32 at 32 kHz in [-1, 1], both axes dynamic. Outputs "scores" (batch, C)
    sigmoid probabilities, "embedding" (batch, D), "log_mel" (batch, 1, 128, frames); ask for those you need.
    Metadata: "labels" (JSON), "sample_rate", "model" (JSON), "precision" and all of the checkpoint's own metadata.

    Args:
        precision: "float16" stores large weights in half the bytes and computes in float32; "int8" stores them in a
            quarter, computes matrix products in 8 bits and convolutions in float32.
        recordings: audio files to measure the loss on.

    Labels and sample rate stand beside it, too, in `<name>.labels.json`, for programs that cannot read the metadata.

    The model is left as it is. The file appears whole or not at all. Raises ValueError for an unknown precision and
    for a model whose classes have no names.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is unknown; use one of {', '.join(PRECISIONS)}")
    windows = list(cut_recordings(recordings))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        plain = Path(folder) / "float32.onnx"
        inferring, layers = _for_inference(model)
        _write_graph(inferring, plain)
        chosen, loss = plain, None
        if precision != "float32":
            store = {"float16": store_as_float16, "int8": store_as_int8}[precision]
            chosen = store(plain, Path(folder) / f"{precision}.onnx")
            loss = measure_loss(plain, chosen, windows)
        _write_metadata(model, chosen, {"precision": precision} | ({"precision_loss": vars(loss)} if loss else {}))
        chosen.replace(path)
    write_labels(path, _labels(model), SAMPLE_RATE, model.metadata)
    return Exported(path, path.stat().st_size / 1e6, precision, loss, layers)


def _area(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def fingerprint(model: AudioTagger) -> str:
    """The first 16 hex digits of a hash of all that the export depends on."""
    digest = hashlib.sha256(FORMAT.encode())
    digest.update(json.dumps([model.config, model.labels, model.metadata], sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _for_inference(model: AudioTagger) -> tuple[AudioTagger, list[Folded]]:
    """A folded, reparameterised copy made of nn.Conv2d alone, and its folded layers.

    Our own depthwise operator cuts kernels to what the map can reach, and the trace would keep that for other lengths.
    """
    model = copy.deepcopy(model).cpu().eval()
    layers: list[Folded] = []
    fold(model, plain=True, report=layers.append)
    return reparameterize(model), layers


def _write_graph(model: AudioTagger, path: Path) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # shapes traced as constants; the parity test covers what they could break
        torch.onnx.export(
            _Graph(model).eval(),
            (torch.zeros(2, 3 * SAMPLE_RATE),),
            path,
            # the newer exporter takes ten times as long (35 s for convnext_atto) and computes the same scores
            dynamo=False,
            opset_version=_OPSET,
            input_names=["waveform"],
            output_names=["scores", "embedding", "log_mel"],
            dynamic_axes={
                "waveform": {0: "batch", 1: "samples"},
                "scores": {0: "batch"},
                "embedding": {0: "batch"},
                "log_mel": {0: "batch", 3: "frames"},
            },
        )
    graph = onnx.load(path)
    _write_properties(graph, {"labels": json.dumps(_labels(model)), "sample_rate": str(SAMPLE_RATE)})
    onnx.save(graph, path)


def _labels(model: AudioTagger) -> Sequence[str]:
    if model.labels is not None:
        return model.labels
    names = [label.display_name for label in audioset_labels()]
    if model.config["num_classes"] != len(names):
        raise ValueError(f"the checkpoint names none of its {model.config['num_classes']} classes; save it with labels")
    return names


def _write_metadata(model: AudioTagger, path: Path, extra: dict[str, Any]) -> None:
    from audioset_dcls import __version__

    entries = {"model": model.config, "format": FORMAT, "version": __version__} | model.metadata | extra
    graph = onnx.load(path)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in entries.items()}
    _write_properties(graph, texts)
    onnx.save(graph, path)


def _write_properties(graph: onnx.ModelProto, entries: dict[str, str]) -> None:
    kept = {property.key: property.value for property in graph.metadata_props} | entries
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, kept)
