"""Smaller ONNX taggers: weights in 16 bits, or products in 8, and how far their scores are from float32's."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from audioset_dcls.tagging.session import OnnxModel, onnx_quantization
from audioset_dcls.tagging.windows import LONGEST_WINDOW, cut_windows
from preprocessing.audio import iter_audio
from preprocessing.constants import SAMPLE_RATE

_LARGE = 1024  # elements; smaller tensors stay float32


@dataclass(frozen=True)
class Loss:
    """How far a file's scores are from the float32 export's, over the windows of some recordings."""

    windows: int
    mean: float  # of |difference|, over windows and classes
    largest: float
    same_best: float  # share of windows with the same best tag


def cut_recordings(recordings: Iterable[str | Path]) -> Iterator[np.ndarray]:
    """(1, samples) each: what the tagger would see of these recordings."""
    window = round(LONGEST_WINDOW * SAMPLE_RATE)
    for recording in recordings:
        blocks = iter_audio(recording, LONGEST_WINDOW)
        for _, waveform in cut_windows(blocks, window, window // 2):
            yield waveform[None]


def store_as_float16(source: Path, target: Path) -> Path:
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


def quantize(plain: Path, folder: Path, windows: list[np.ndarray]) -> tuple[str, Path, Loss]:
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
    paths = {"static": static, "dynamic": dynamic}
    candidates = [(method, path, measure_loss(plain, path, windows)) for method, path in paths.items()]
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


def measure_loss(plain: Path, other: Path, windows: list[np.ndarray]) -> Loss | None:
    if not windows:
        return None
    expected, got = (np.concatenate([OnnxModel(path).run(window)[0] for window in windows]) for path in (plain, other))
    difference = np.abs(expected - got)
    same = (expected.argmax(1) == got.argmax(1)).mean()
    return Loss(len(windows), float(difference.mean()), float(difference.max()), float(same))
