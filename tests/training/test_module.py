"""The loss against its definition, the teacher, the averaged weights, the watch over the positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from onnx import helper, numpy_helper
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from audioset_dcls.dcls import dcls_layers
from audioset_dcls.models import create_model, save_checkpoint
from audioset_dcls.training import run
from audioset_dcls.training.callbacks.average import WeightAverage
from audioset_dcls.training.callbacks.positions import border_share
from audioset_dcls.training.callbacks.teacher import Teacher
from audioset_dcls.training.losses import Distillation, EmbeddingMatcher
from audioset_dcls.training.module import TaggingModule
from audioset_dcls.training.optimizer import Schedule
from preprocessing.clips.reader import ClipFile
from preprocessing.clips.writer import ClipWriter
from preprocessing.log_mel import LogMel
from tests.training.small_runs import composed, curve


def module(**settings: Any) -> TaggingModule:
    model = create_model("convnext_atto", num_classes=3, depths=[1, 1, 1, 1], dims=[8, 8, 8, 8])
    return TaggingModule(model, ["a", "b", "c"], {"lr": 1e-3}, Schedule(10), **settings)


def test_loss() -> None:
    logits, target, teacher = torch.randn(4, 3), torch.rand(4, 3), torch.rand(4, 3)
    labels = -(target * F.logsigmoid(logits) + (1 - target) * F.logsigmoid(-logits)).mean()
    torch.testing.assert_close(module().loss(logits, target), labels)
    soft = torch.sigmoid(torch.log(teacher / (1 - teacher)) / 2)
    distilled = -(soft * F.logsigmoid(logits / 2) + (1 - soft) * F.logsigmoid(-logits / 2)).mean()
    learner = module(distill=Distillation(0.7, temperature=2.0))
    torch.testing.assert_close(learner.loss(logits, target, teacher), 0.3 * labels + 0.7 * 4 * distilled)
    certain = module(distill=Distillation(1.0)).loss(logits, target, torch.tensor([[0.0, 1.0, 0.5]]).expand(4, 3))
    assert certain.isfinite()


def test_repulsion() -> None:
    """Elements near each other cost; the loss' gradient moves the positions, and only its part does."""
    plain, repelling = module(), module(repulsion=0.5)
    repelling.model.load_state_dict(plain.model.state_dict())
    logits, target = torch.zeros(4, 3), torch.zeros(4, 3)
    layers = list(dcls_layers(repelling.model))
    expected = plain.loss(logits, target) + 0.5 * sum(layer.repulsive_loss() for layer in layers)
    loss = repelling.loss(logits, target)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert layers[0].positions.grad is not None
    assert layers[0].positions.grad.abs().sum() > 0


@pytest.mark.slow
@pytest.mark.parametrize("feature_weight", [0.0, 1.0])
def test_compiled_with_and_without_a_teachers_embedding(feature_weight: float) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def record(graph: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    compiled = module(compile=True, distill=Distillation(feature_weight=feature_weight), embedding_size=4)
    names = module(distill=Distillation(feature_weight=feature_weight), embedding_size=4).state_dict().keys()
    assert compiled.state_dict().keys() == names
    log_mel = torch.randn(2, 1, 128, 101)
    with torch.compiler.set_stance("default", force_backend=record):
        (compiled.embed if feature_weight else compiled.model)(log_mel)
    (graph,) = graphs
    layers = [str(node.target) for node in graph.graph.nodes]
    assert "audioset_dcls.depthwise_conv2d_in_a_graph.default" in layers


def test_classes_must_match() -> None:
    model = create_model("convnext_atto", num_classes=3, depths=[1, 1, 1, 1], dims=[8, 8, 8, 8])
    with pytest.raises(ValueError, match=r"set model\.num_classes=2"):
        TaggingModule(model, ["a", "b"], {"lr": 1e-3}, Schedule(10))


class Spy(Callback):
    """Keeps what the training made of each batch, and the positions after each step."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Tensor]] = []
        self.weights: list[Tensor] = []

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *batch: Any) -> None:
        self.batches.append({name: value.clone() for name, value in batch[1].items()})
        if trainer.global_step > len(self.weights):
            self.weights.append(module.model.trunk.stem[0].weight.detach().clone())


def spied(monkeypatch: pytest.MonkeyPatch) -> Spy:
    spy, original = Spy(), run.create_callbacks
    monkeypatch.setattr(
        run, "create_callbacks", lambda *arguments: [*original(*arguments)[:-1], spy, original(*arguments)[-1]]
    )
    return spy


class Loudness(nn.Module):
    """A teacher of the six classes of `clips`: what it scores can be computed by hand."""

    def forward(self, waveform: Tensor) -> Tensor:
        return waveform.abs().amax(1, keepdim=True).expand(-1, 6)


def loudness_onnx() -> onnx.ModelProto:
    """The same as an ONNX file whose scores are its second output."""
    tensor, node, floats = helper.make_tensor_value_info, helper.make_node, onnx.TensorProto.FLOAT
    nodes = [
        node("Abs", ["waveform"], ["size"]),
        node("ReduceMax", ["size", "axes"], ["loudest"], keepdims=1),
        node("Concat", ["loudest"] * 6, ["scores"], axis=1),
    ]
    outputs = [tensor("loudest", floats, ["batch", 1]), tensor("scores", floats, ["batch", 6])]
    axes = numpy_helper.from_array(np.array([1]), "axes")
    graph = helper.make_graph(nodes, "g", [tensor("waveform", floats, ["batch", "samples"])], outputs, [axes])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("suffix", ["pt", "onnx"])
def test_teacher_scores_each_batch(
    suffix: str, small: list[str], clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"teacher.{suffix}"
    if suffix == "pt":
        torch.jit.script(Loudness()).save(path)
    else:
        onnx.save(loudness_onnx(), path)
    spy = spied(monkeypatch)
    run.train(composed([*small, f"teacher={path}", "distill.weight=0.9", "epochs=1"]), tmp_path / "run")
    assert len(spy.batches) == 6
    for batch in spy.batches:
        loudest = ClipFile(clips).waveforms(batch["clip"].numpy()).astype(np.float32)
        expected = np.abs(loudest / 32767).max(1, keepdims=True).repeat(6, 1)
        np.testing.assert_allclose(batch["teacher"].numpy(), expected, rtol=1e-6)


def test_missing_teacher() -> None:
    with pytest.raises(ValueError, match=r"none\.onnx: no such file"):
        Teacher("none.onnx")
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt: no such file"):
        Teacher("none.ckpt")


def test_a_checkpoint_as_teacher(tmp_path: Path) -> None:
    """Scores and embedding are the model's own, on its own log-mel."""
    torch.manual_seed(0)
    model = create_model("efficientat_mn04", dilated_kernel_size=7).eval()
    save_checkpoint(tmp_path / "teacher.ckpt", model)
    waveform = 0.1 * torch.randn(2, 32_000)
    scores, embedding = Teacher(tmp_path / "teacher.ckpt").score(waveform)
    with torch.inference_mode():
        log_mel = LogMel(model.log_mel_settings)(waveform)
        torch.testing.assert_close(scores, model(log_mel).sigmoid())
        torch.testing.assert_close(embedding, model.embed(log_mel))


def test_frozen_batch_norms_keep_their_statistics(small: list[str], tmp_path: Path) -> None:
    """Scale and bias learn; mean and variance stay through training and validation."""
    model = create_model("efficientat_mn04", num_classes=6, dilated_kernel_size=7)
    frozen = TaggingModule(model, list("abcdef"), {"name": "adamw", "lr": 1e-3}, Schedule(10), freeze_batch_norm=True)
    norms = [module for module in frozen.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    for mode in (True, False, True):
        frozen.train(mode)
        assert frozen.model.training is mode
        assert not any(norm.training for norm in norms)
    assert all(norm.weight.requires_grad for norm in norms)
    thawed = TaggingModule(model, list("abcdef"), {"name": "adamw", "lr": 1e-3}, Schedule(10))
    assert all(module.training for module in thawed.train().modules())


class LoudnessAndStart(Loudness):
    """Its embedding is the waveform's first five samples."""

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return waveform.abs().amax(1, keepdim=True).expand(-1, 6), waveform[:, :5]


def test_teacher_with_an_embedding(small: list[str], clips: Path, tmp_path: Path) -> None:
    """What the matcher has seen after an epoch is in the checkpoint, beside the model, which loads without it."""
    from audioset_dcls.models import load_checkpoint

    torch.jit.script(LoudnessAndStart()).save(tmp_path / "teacher.pt")
    settings = [f"teacher={tmp_path / 'teacher.pt'}", "distill.feature_weight=0.1", "augment=none", "epochs=1"]
    run.train(composed([*small, *settings]), tmp_path / "run")
    state = torch.load(tmp_path / "run/last.ckpt", weights_only=True)["current_model_state"]
    seen = ClipFile(clips).waveforms(np.arange(24))[:, :5] / 32767
    assert state["matcher.count"] == 24
    np.testing.assert_allclose(state["matcher.mean"], seen.mean(0), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(state["matcher.squares"], 24 * seen.var(0), rtol=1e-4)
    rows = [row for row in curve(tmp_path / "run") if "train/embedding" in row]
    assert len(rows) == 3
    assert not any(name.startswith("matcher") for name in load_checkpoint(tmp_path / "run/last.ckpt").state_dict())


def test_embedding_matcher() -> None:
    """A perfect map costs nothing whatever the features' scale; statistics are those of all batches."""
    torch.manual_seed(0)
    embedding = torch.randn(64, 4, dtype=torch.float64) * torch.tensor([1.0, 10, 100, 0.01]) + 5
    matcher = EmbeddingMatcher(4, 4).double()
    for batch in embedding.split(16):
        matcher.observe(batch)
    torch.testing.assert_close(matcher.mean, embedding.mean(0))
    torch.testing.assert_close(matcher.squares / 64, embedding.var(0, unbiased=False))
    deviation = embedding.std(0, unbiased=False)
    standardised = (embedding - embedding.mean(0)) / (deviation + 0.1 * deviation.mean())
    with torch.no_grad():
        matcher.linear.weight.copy_(torch.eye(4))
        matcher.linear.bias.zero_()
        assert matcher(standardised, embedding) < 1e-12  # shares of the count are float32
        assert matcher(standardised + 0.5, embedding) == pytest.approx(0.25)


def test_embedding_needs_a_teacher() -> None:
    with pytest.raises(ValueError, match=r"feature_weight needs a teacher's embedding"):
        module(distill=Distillation(feature_weight=1.0))


def test_labels_are_raised_to_the_teachers_scores(
    small: list[str], clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.jit.script(Loudness()).save(tmp_path / "teacher.pt")
    targets = []
    original = TaggingModule.loss

    def spy(self: TaggingModule, logits: Tensor, target: Tensor, teacher: Tensor | None = None) -> Tensor:
        targets.append(target)
        return original(self, logits, target, teacher)

    monkeypatch.setattr(TaggingModule, "loss", spy)
    batches = spied(monkeypatch)
    settings = [f"teacher={tmp_path / 'teacher.pt'}", "distill.soft_labels=true", "augment=none", "epochs=1"]
    run.train(composed([*small, *settings]), tmp_path / "run")
    for target, batch in zip(targets, batches.batches, strict=True):
        torch.testing.assert_close(target, torch.maximum(batch["target"].float(), batch["teacher"]))
        assert not torch.equal(target, batch["target"].float())


def test_classifier_starts_from_the_priors(small: list[str], clips: Path, tmp_path: Path) -> None:
    """Before it has learned anything, it says of every clip how often each class comes."""
    settings = ["prior_bias=true", "optimizer.lr=1e-9", "scheduler.min_lr=1e-9", "epochs=1", "augment=none"]
    run.train(composed([*small, *settings]), tmp_path)
    bias = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]["model.trunk.head.fc.bias"]
    expected = ClipFile(clips).read("target", np.arange(24)).mean(0)
    np.testing.assert_allclose(bias.sigmoid(), expected, atol=1e-4)


def test_short_clips_are_validated_at_their_length(small: list[str], clips: Path, tmp_path: Path) -> None:
    from audioset_dcls.models import load_checkpoint

    data = ClipFile(clips)
    lengths = np.arange(8_500, 32_500, 1_000)
    waveforms = data.waveforms(np.arange(24)) * (np.arange(32_000) < lengths[:, None])
    with ClipWriter(tmp_path / "val.h5", data.labels, samples=32_000) as writer:
        writer.append(data.audio_names(), waveforms, data.read("target", np.arange(24)))
        writer.finish({"samples": lengths.astype(np.int32)})
    with ClipWriter(tmp_path / "train.h5", data.labels, samples=16_000) as writer:
        writer.append(data.audio_names(), waveforms[:, :16_000], data.read("target", np.arange(24)))
        writer.finish()
    files = [f"data.train=[{tmp_path / 'train.h5'}]", f"data.val={tmp_path / 'val.h5'}", "data.clip_seconds=null"]
    unaveraged = [setting for setting in small if "average" not in setting]
    run.train(composed([*unaveraged, *files, "epochs=1"]), tmp_path / "run")
    model, scores = load_checkpoint(tmp_path / "run/last.ckpt"), []
    for waveform, length in zip(waveforms, lengths, strict=True):
        with torch.inference_mode():
            scores.append(model(LogMel()(torch.from_numpy(waveform[None, :length]).float() / 32767))[0].sigmoid())
    expected = average_precision_score(data.read("target", np.arange(24)), np.stack(scores), average="macro")
    assert max(row.get("val/map", 0) for row in curve(tmp_path / "run")) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("decay", [0.9, None])
def test_weight_average(decay: float | None, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint's weights are the average of the weights after each step from `start` on."""
    spy = spied(monkeypatch)
    start = 0.5  # of nine steps: the average is the weights themselves until the fifth
    settings = [f"callbacks.average.decay={'null' if decay is None else decay}", f"callbacks.average.start={start}"]
    run.train(composed([*small, *settings]), tmp_path)
    average = spy.weights[4]
    for count, weights in enumerate(spy.weights[5:], 1):
        share = 1 / count if decay is None else max(1 - decay, 9 / (9 + count))
        average = average + share * (weights - average)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    torch.testing.assert_close(checkpoint["state_dict"]["model.trunk.stem.0.weight"], average)
    torch.testing.assert_close(checkpoint["current_model_state"]["model.trunk.stem.0.weight"], spy.weights[-1])
    assert isinstance(WeightAverage(decay), Callback)


def test_validation_map(small: list[str], clips: Path, tmp_path: Path) -> None:
    """The logged mAP is scikit-learn's, of the weights in the checkpoint."""
    from audioset_dcls.models import load_checkpoint

    run.train(composed([*small, "epochs=1"]), tmp_path)
    data, model = ClipFile(clips), load_checkpoint(tmp_path / "last.ckpt")
    with torch.inference_mode():
        scores = model(LogMel()(torch.from_numpy(data.waveforms(np.arange(24))).float() / 32767)).sigmoid().numpy()
    expected = average_precision_score(data.read("target", np.arange(24)), scores, average="macro")
    assert curve(tmp_path)[-1 - 1]["val/map"] == pytest.approx(expected, abs=1e-6)


def test_positions_are_clamped_and_watched(small: list[str], tmp_path: Path) -> None:
    """With a rate that throws them far out they stop at the border, and the log says how many sit there."""
    run.train(composed([*small, "optimizer.position_lr_factor=1e4", "epochs=1", "warmup_epochs=0"]), tmp_path)
    weights = torch.load(tmp_path / "last.ckpt", weights_only=True)["current_model_state"]
    positions = weights["model.trunk.stages.0.blocks.0.conv_dw.positions"]
    assert positions.abs().max() == 3  # 7 x 7
    rows = [row for row in curve(tmp_path) if "positions/stages.0.blocks.0.conv_dw/border" in row]
    row = rows[-1]
    outside = (positions.abs() > 2.5).any(0).float().mean().item()
    assert row["positions/stages.0.blocks.0.conv_dw/border"] == pytest.approx(outside)
    assert row["positions/stages.0.blocks.0.conv_dw/spread_time"] == pytest.approx(positions[1].std().item())
    speeds = [row["positions/stages.0.blocks.0.conv_dw/speed"] for row in rows]
    assert sum(speeds) > 1000  # a row a step: in all, over a cell


def test_border_share() -> None:
    layer = next(dcls_layers(create_model("convnext_atto", dilated_kernel_size=7)))
    with torch.no_grad():
        layer.positions.zero_()
        assert border_share(layer) == 0
        layer.positions[0, :4] = -2.6
        layer.positions[1, 4:10] = 2.6
        layer.positions[1, 10:20] = 2.4
    assert border_share(layer) == pytest.approx(10 / len(layer.weight))
