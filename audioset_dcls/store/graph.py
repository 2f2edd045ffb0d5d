"""A tagger's ONNX graph with a new last layer. Needs the `onnx` package, not torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from audioset_dcls.tagging.contract import write_labels
from audioset_dcls.tagging.session import ModelError
from preprocessing.files import atomic_write
from preprocessing.terminal import first_line

# What the file says of itself that holds for the new classes, too.
_KEPT = ("sample_rate", "model", "format", "clip_seconds", "hop_seconds", "precision", "licence")
_PREFIX = "taught/"  # of the new names


def write_tagger(
    base: Path,
    path: Path,
    labels: Sequence[str],
    weight: np.ndarray,
    bias: np.ndarray,
    taught: dict[str, Any],
    add: bool = False,
) -> None:
    """Write `base` with scores = sigmoid(embedding / |embedding| @ weight + bias) of the new classes.

    Args:
        weight, bias: (D, C) and (C,).
        taught: what the metadata says of the teaching.
        add: append the new scores to those of the base. Its masked classes stay masked.

    The file appears whole or not at all. Raises ModelError for a base that is no such model, or has weights outside.
    """
    import onnx

    try:
        model = onnx.load(base, load_external_data=False)
    except Exception as error:  # protobuf's, which is no dependency of ours
        raise ModelError(f"{base}: no ONNX model ({first_line(error)}); export it again") from None
    graph = model.graph
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
        raise ModelError(f"{base}: keeps weights in another file; export the checkpoint again with dcls-export")
    properties = {entry.key: entry.value for entry in model.metadata_props}
    old_labels = json.loads(properties["labels"])
    _rename_scores(graph)
    helper = onnx.helper
    for name, values in (("weight", weight), ("bias", bias)):
        graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), _PREFIX + name))
    new = _PREFIX + "scores" if add else "scores"
    nodes = [
        helper.make_node("LpNormalization", ["embedding"], [_PREFIX + "unit"], axis=1, p=2),
        helper.make_node("Gemm", [_PREFIX + "unit", _PREFIX + "weight", _PREFIX + "bias"], [_PREFIX + "logits"]),
        helper.make_node("Sigmoid", [_PREFIX + "logits"], [new]),
    ]
    if add:
        nodes.append(helper.make_node("Concat", [_PREFIX + "base_scores", new], ["scores"], axis=1))
    graph.node.extend(nodes)
    classes = [*old_labels, *labels] if add else list(labels)
    _set_scores(graph, len(classes))
    _remove_unused(graph)
    kept = {key: value for key, value in properties.items() if key in _KEPT or (add and key == "masked")}
    del model.metadata_props[:]
    helper.set_model_props(model, {**kept, "labels": json.dumps(classes), "taught": json.dumps(taught)})
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(model.SerializeToString())
    facts = {key: json.loads(kept[key]) for key in ("clip_seconds", "hop_seconds", "masked") if key in kept}
    write_labels(path, classes, int(json.loads(kept["sample_rate"])), facts)


def _rename_scores(graph: Any) -> None:
    """The old scores get another name, wherever they are used."""
    for node in graph.node:
        for names in (node.input, node.output):
            for number, name in enumerate(names):
                if name == "scores":
                    names[number] = _PREFIX + "base_scores"


def _set_scores(graph: Any, classes: int) -> None:
    from onnx import TensorProto, helper

    outputs = [output for output in graph.output if output.name != "scores"]
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", classes])
    del graph.output[:]
    graph.output.extend([scores, *outputs])
    described = [value for value in graph.value_info if value.name != "scores"]
    del graph.value_info[:]
    graph.value_info.extend(described)


def _inputs(node: Any) -> set[str]:
    """Names that a node reads, in its branches too: those see the names around them."""
    inner = (node for attribute in node.attribute for node in attribute.g.node)
    return set(node.input).union(*map(_inputs, inner))


def _remove_unused(graph: Any) -> None:
    """Nodes and weights that no output needs: the old last layers."""
    wanted = {output.name for output in graph.output}
    nodes = []
    for node in reversed(graph.node):  # ONNX keeps them sorted
        if wanted & set(node.output):
            nodes.append(node)
            wanted |= _inputs(node)
    weights = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.node[:]
    graph.node.extend(reversed(nodes))
    del graph.initializer[:]
    graph.initializer.extend(weights)
