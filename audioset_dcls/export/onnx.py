"""A checkpoint as one self-contained ONNX file: waveform in, scores and embedding out."""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn
from torch.onnx.operators import shape_as_tensor

from audioset_dcls.dcls import Folded, fold
from audioset_dcls.export.log_mel import MatmulLogMel
from audioset_dcls.models.trunks import AudioTagger, reparameterize
from audioset_dcls.tagging.session import FORMAT, OnnxModel, onnx_quantization
from audioset_dcls.tagging.windows import LONGEST_WINDOW, cut_windows
from preprocessing.audio import iter_audio
from preprocessing.constants import HOP, N_FFT, SAMPLE_RATE
from preprocessing.labels import labels as audioset_labels

PRECISIONS = ("float32", "float16", "int8")
_OPSET = 17
_SHORTEST = N_FFT // 2 + 1  # samples that the reflection at the ends needs, after pre-emphasis
_LARGE = 1024  # elements; smaller tensors stay float32


@dataclass(frozen=True)
class Loss:
    """How far a file's scores are from the float32 export's, over the windows of some recordings."""

    windows: int
    mean: float  # of |difference|, over windows and classes
    largest: float
    same_best: float  # share of windows with the same best tag


@dataclass(frozen=True)
class Exported:
    """What `export` wrote."""

    path: Path
    megabytes: float
    method: str  # "float32", "float16", "int8 static" or "int8 dynamic"
    loss: Loss | None  # None where there were no recordings to measure it on
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

    precision: "float16" stores large weights in half the bytes and computes in float32; "int8" computes 1 x 1
        convolutions and matrix products in 8 bits, calibrated (static) or not (dynamic), whichever loses less.
    recordings: audio files to calibrate int8 with and to measure the loss on.

    The model is left as it is. The file appears whole or not at all. Raises ValueError for an unknown precision, for
    int8 without recordings and for a model whose classes have no names.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is unknown; use one of {', '.join(PRECISIONS)}")
    windows = list(_windows(recordings))
    if precision == "int8" and not windows:
        raise ValueError("int8 needs recordings to calibrate on; give some with --clips")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        plain = Path(folder) / "float32.onnx"
        inferring, layers = _for_inference(model)
        _write_graph(inferring, plain)
        method, chosen, loss = precision, plain, None
        if precision == "float16":
            chosen = _store_as_float16(plain, Path(folder) / "float16.onnx")
            loss = _loss(plain, chosen, windows)
        elif precision == "int8":
            method, chosen, loss = _quantize(plain, Path(folder), windows)
        _write_metadata(model, chosen, {"precision": method} | ({"precision_loss": vars(loss)} if loss else {}))
        chosen.replace(path)
    return Exported(path, path.stat().st_size / 1e6, method, loss, layers)


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


def _windows(recordings: Iterable[str | Path]) -> Iterator[np.ndarray]:
    """(1, samples) each: what the tagger would see of these recordings."""
    window = round(LONGEST_WINDOW * SAMPLE_RATE)
    for recording in recordings:
        blocks = iter_audio(recording, LONGEST_WINDOW)
        for _, waveform in cut_windows(blocks, window, window // 2):
            yield waveform[None]


def _store_as_float16(source: Path, target: Path) -> Path:
    """Large weights as float16, each cast back to float32 at its use; ONNX Runtime does that once, when it loads."""
    graph = onnx.load(source)
    casts = []
    for tensor in graph.graph.initializer:
        large = tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) >= _LARGE
        if not large or tensor.name.startswith("log_mel."):
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.float16"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.float16"], [name], to=onnx.TensorProto.FLOAT))
    for cast in reversed(casts):
        graph.graph.node.insert(0, cast)
    onnx.save(graph, target)
    return target


def _quantize(plain: Path, folder: Path, windows: list[np.ndarray]) -> tuple[str, Path, Loss]:
    """The better of static and dynamic int8."""
    quantization = onnx_quantization()

    class Windows(quantization.CalibrationDataReader):  # type: ignore[name-defined]
        def __init__(self) -> None:
            self._remaining = iter(windows)

        def get_next(self) -> dict[str, np.ndarray] | None:
            waveform = next(self._remaining, None)
            return None if waveform is None else {"waveform": waveform}

    prepared = folder / "prepared.onnx"
    quantization.shape_inference.quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
    excluded = _not_quantized(prepared)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        static, dynamic = folder / "static.onnx", folder / "dynamic.onnx"
        quantization.quantize_static(
            str(prepared),
            str(static),
            Windows(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            nodes_to_exclude=excluded,
        )
        quantization.quantize_dynamic(
            str(prepared),
            str(dynamic),
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            nodes_to_exclude=excluded,
        )
    candidates = [
        (method, path, _loss(plain, path, windows)) for method, path in (("static", static), ("dynamic", dynamic))
    ]
    method, path, loss = min(candidates, key=lambda candidate: candidate[2].mean if candidate[2] else 0.0)
    assert loss is not None
    return f"int8 {method}", path, loss


def _not_quantized(path: Path) -> list[str]:
    """Nodes that stay float32: the log-mel, the stem and depthwise convolutions (slower in 8 bits than in float32)."""
    graph = onnx.load(path).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    excluded = []
    for node in graph.node:
        kernel = shapes.get(node.input[1], ()) if len(node.input) > 1 else ()
        pointwise = node.op_type == "Conv" and kernel[2:] == (1, 1)
        if node.name.startswith("/log_mel/") or (node.op_type == "Conv" and not pointwise):
            excluded.append(node.name)
    return excluded


def _loss(plain: Path, other: Path, windows: list[np.ndarray]) -> Loss | None:
    if not windows:
        return None
    expected, got = (np.concatenate([OnnxModel(path).run(window)[0] for window in windows]) for path in (plain, other))
    difference = np.abs(expected - got)
    same = (expected.argmax(1) == got.argmax(1)).mean()
    return Loss(len(windows), float(difference.mean()), float(difference.max()), float(same))
