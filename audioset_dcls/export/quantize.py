"""Smaller ONNX taggers: weights in 16 or 8 bits, and how far their scores are from float32's."""

from __future__ import annotations

import logging
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
_INT8 = 127  # the largest step


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
    for tensor in _large_weights(graph):
        name, values = tensor.name, numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.float16"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.float16"], [name], to=onnx.TensorProto.FLOAT))
    return _save_with(casts, graph, target)


def store_as_int8(source: Path, target: Path) -> Path:
    """Large weights as int8, with a scale for each output channel.

    Products with a matrix of weights are computed in 8 bits, their other factor quantised as it comes. Convolutions are
    computed in float32: in 8 bits ONNX Runtime takes 1.3 to 4 times as long for them (docs/performance.md).
    """
    logging.disable(logging.WARNING)  # it advises everybody to preprocess the file, which changes nothing in ours
    try:
        _quantize_products(source, target)
    finally:
        logging.disable(logging.NOTSET)
    graph = onnx.load(target)
    users = {name: node for node in graph.graph.node for name in node.input}
    nodes = []
    for tensor in _large_weights(graph):
        name, values = tensor.name, numpy_helper.to_array(tensor)
        axis = _output_axis(users[name])
        largest = np.abs(values).max(tuple(other for other in range(values.ndim) if other != axis), keepdims=True)
        scale = np.where(largest == 0, 1, largest / _INT8).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{name}.int8"))
        graph.graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
        nodes.append(onnx.helper.make_node("Cast", [f"{name}.int8"], [f"{name}.cast"], to=onnx.TensorProto.FLOAT))
        nodes.append(onnx.helper.make_node("Mul", [f"{name}.cast", f"{name}.scale"], [name]))
    return _save_with(nodes, graph, target)


def _quantize_products(source: Path, target: Path) -> None:
    onnx_quantization().quantize_dynamic(
        str(source),
        str(target),
        per_channel=True,
        op_types_to_quantize=["MatMul"],
        nodes_to_exclude=[node.name for node in onnx.load(source).graph.node if node.name.startswith("/log_mel/")],
    )


def _large_weights(graph: onnx.ModelProto) -> list[onnx.TensorProto]:
    """float32 weights that are worth storing in fewer bits; those of the log-mel are not."""
    return [
        tensor
        for tensor in graph.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
        and len(tensor.dims) > 1
        and np.prod(tensor.dims) >= _LARGE
        and not tensor.name.startswith("log_mel.")
    ]


def _output_axis(node: onnx.NodeProto) -> int:
    """The axis of the output channels in the weights of a node."""
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 1 if node.op_type == "MatMul" or (node.op_type == "Gemm" and not transposed) else 0


def _save_with(first: list[onnx.NodeProto], graph: onnx.ModelProto, target: Path) -> Path:
    """Write a graph with further nodes before its own."""
    for node in reversed(first):
        graph.graph.node.insert(0, node)
    onnx.save(graph, target)
    return target


def measure_loss(plain: Path, other: Path, windows: list[np.ndarray]) -> Loss | None:
    if not windows:
        return None
    expected, got = (np.concatenate([OnnxModel(path).run(window)[0] for window in windows]) for path in (plain, other))
    difference = np.abs(expected - got)
    same = (expected.argmax(1) == got.argmax(1)).mean()
    return Loss(len(windows), float(difference.mean()), float(difference.max()), float(same))
