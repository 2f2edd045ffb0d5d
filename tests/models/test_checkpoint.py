"""Checkpoints: what is saved comes back, and what is no checkpoint is refused in one clear line."""

from __future__ import annotations

import os
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from audioset_dcls.dcls import Folded, dcls_layers, fold
from audioset_dcls.models import (
    AudioTagger,
    CheckpointError,
    available_checkpoints,
    checkpoint_header,
    create_model,
    load_checkpoint,
    reparameterize,
    save_checkpoint,
)
from tests.models import stand_ins

LOG_MEL = torch.randn(2, 1, 128, 200, generator=torch.Generator().manual_seed(0))
SMALL = {"num_classes": 3, "kernel_count": 6, "dilated_kernel_size": 11}


@pytest.fixture
def model() -> AudioTagger:
    return create_model("test_convnext", **SMALL).eval()


@pytest.fixture
def fastvit() -> AudioTagger:
    return create_model("fastvit_sa12", layers=(1, 1, 1, 1), embed_dims=(8, 16, 32, 64), **SMALL).eval()


def same(one: AudioTagger, other: AudioTagger) -> bool:
    with torch.inference_mode():
        return torch.equal(one(LOG_MEL), other(LOG_MEL))


@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".safetensors"])
def test_what_is_saved_comes_back(model: AudioTagger, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new folder" / f"model{suffix}"
    save_checkpoint(path, model, labels=["dog", "cat", "rain"], metadata={"mAP": 0.4, "seeds": [0, 1]})
    loaded = load_checkpoint(path)
    assert same(loaded, model)
    assert not loaded.training
    assert loaded.labels == ("dog", "cat", "rain")
    assert loaded.metadata == {"mAP": 0.4, "seeds": [0, 1]}
    assert len({id(layer.positions) for layer in dcls_layers(loaded)}) == 4  # still one tensor a stage
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    save_checkpoint(path, loaded)  # over the old file
    assert load_checkpoint(path).labels == loaded.labels


@pytest.mark.parametrize("tolerance", [None, 1e-6])
@pytest.mark.parametrize("name", ["model", "fastvit"])
def test_folded_and_merged_models_come_back_so(
    name: str, tolerance: float | None, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """With the kernels' sizes that they were cropped to."""
    folded: AudioTagger = request.getfixturevalue(name)
    sizes: list[Folded] = []
    for change in (partial(fold, tolerance=tolerance, report=sizes.append), reparameterize):
        change(folded)
        save_checkpoint(tmp_path / "model.pth", folded)
        loaded = load_checkpoint(tmp_path / "model.pth")
        assert same(loaded, folded)
        assert loaded.state_dict().keys() == folded.state_dict().keys()
    assert any(layer.cropped_size != layer.kernel_size for layer in sizes) == (tolerance is not None)


def test_kernels_larger_than_the_config_says_are_refused(model: AudioTagger, tmp_path: Path) -> None:
    fold(model, tolerance=None)
    save_checkpoint(tmp_path / "model.pth", model)
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    key = next(key for key in content["state_dict"] if key.endswith("conv_dw.weight"))
    for size in (13, 12, 10):  # larger, or not smaller by as many cells on both sides
        content["state_dict"][key] = torch.zeros(*content["state_dict"][key].shape[:2], size, size)
        torch.save(content, tmp_path / "changed.pth")
        with pytest.raises(CheckpointError, match="of another shape"):
            load_checkpoint(tmp_path / "changed.pth")


def test_lightning_checkpoints_load_with_averaged_weights_preferred(model: AudioTagger, tmp_path: Path) -> None:
    average = create_model("test_convnext", **SMALL).eval()
    content: dict[str, Any] = {
        "epoch": 3,
        "pytorch-lightning_version": "2.5",
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
        "audioset_dcls": checkpoint_header(model, labels=["dog", "cat", "rain"]),
        "state_dict": {f"model.{key}": value for key, value in model.state_dict().items()} | {"loss.w": torch.ones(1)},
    }
    torch.save(content, tmp_path / "last.ckpt")
    assert same(load_checkpoint(tmp_path / "last.ckpt"), model)
    content["ema_state_dict"] = {f"model.{key}": value for key, value in average.state_dict().items()}
    torch.save(content, tmp_path / "last.ckpt")
    assert same(load_checkpoint(tmp_path / "last.ckpt"), average)


@pytest.mark.slow
def test_a_compiled_model_is_saved_as_itself(model: AudioTagger, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model.pth", torch.compile(model))
    assert same(load_checkpoint(tmp_path / "model.pth"), model)


def test_labels_and_metadata_must_fit(model: AudioTagger, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 labels for 3 classes"):
        save_checkpoint(tmp_path / "model.pth", model, labels=["dog", "cat"])
    with pytest.raises(ValueError, match="must be plain types"):
        save_checkpoint(tmp_path / "model.pth", model, metadata={"path": tmp_path})
    assert not list(tmp_path.iterdir())


class Code:
    """Runs a command when unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.proof}",)


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    path, proof = tmp_path / "model.pth", tmp_path / "proof"
    for zipped in (True, False):
        torch.save({"model": Code(proof)}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r"^[^\n]*model\.pth: (refused|damaged)[^\n]*$"):
            load_checkpoint(path)
    assert not proof.exists()
    torch.load(path, weights_only=False)  # the file does run code where it is let
    assert proof.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty; expected a file written by torch.save"),
        (b"these are notes, no weights\n" * 30, "no checkpoint; expected"),
        (b"<!doctype html><HTML><body>Sign in</body></html>", "a web page; expected"),
        (b"PK\x03\x04" + bytes(1000), "damaged or truncated"),
        (b"\x80\x02" + bytes(1000), "damaged or truncated"),
        (bytes(8) + b"{" + bytes(1000), "damaged or truncated"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"^[^\n]*model\.pth: {message}[^\n]*$"):
        load_checkpoint(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
def test_truncated_files(model: AudioTagger, tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"model{suffix}"
    save_checkpoint(path, model)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(CheckpointError, match=r"^[^\n]*damaged or truncated[^\n]*$"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "holds a list, expected a dictionary"),
        ({}, "neither a model saved by audioset-dcls nor one published by DCLS-Audio"),
        (OrderedDict(bn0=torch.zeros(64)), r"its keys: bn0\)"),
        ({"model": {"conv_block1.conv1.weight": torch.zeros(64, 1, 3, 3)}}, "its keys: model"),
        ({"audioset_dcls": {"version": 2}, "state_dict": {}}, "newer audioset-dcls"),
        ({"audioset_dcls": {"version": 1}, "state_dict": {}}, "damaged: it has no entry 'model'"),
        ({"audioset_dcls": {"version": 1}}, "damaged: it has no entry 'state_dict'"),
        (
            {"audioset_dcls": {"version": 1, "model": {"name": "x"}, "labels": None, "metadata": {}}, "state_dict": {}},
            "'x' is no trunk",
        ),
    ],
)
def test_checkpoints_of_other_programs(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=rf"^[^\n]*other\.pth: [^\n]*{message}[^\n]*$"):
        load_checkpoint(tmp_path / "other.pth")


def test_weights_of_another_model(model: AudioTagger, tmp_path: Path) -> None:
    weights = {f"model.{key}": value for key, value in model.state_dict().items()}
    weights["model.trunk.more"] = weights.pop("model.trunk.stem.0.bias")
    weights["model.trunk.head.fc.weight"] = torch.zeros(4, 64)
    torch.save({"audioset_dcls": checkpoint_header(model), "state_dict": weights}, tmp_path / "model.pth")
    message = (
        r"model\.pth: not the weights of test_convnext: 1 missing \(trunk\.stem\.0\.bias\), "
        r"1 unknown \(trunk\.more\), 1 of another shape \(trunk\.head\.fc\.weight\)$"
    )
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "model.pth")


def test_a_published_file_with_missing_entries(tmp_path: Path) -> None:
    state_dict = stand_ins.state_dict("convnext_audio_tiny")
    del state_dict["stages.2.3.gamma"]
    torch.save({"model": state_dict}, tmp_path / "half.pth")
    with pytest.raises(CheckpointError, match=r"1 missing \(trunk\.stages\.2\.blocks\.3\.gamma\)"):
        load_checkpoint(tmp_path / "half.pth")


def test_no_such_file_or_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="did you mean 'convnext_dcls'"):
        load_checkpoint("convnext_dlcs")
    with pytest.raises(FileNotFoundError, match=r"missing\.pth: no such file; published checkpoints: convnext_dcls, "):
        load_checkpoint(tmp_path / "missing.pth")
    with pytest.raises(FileNotFoundError, match="a folder"):
        load_checkpoint(tmp_path)


def test_an_exported_tagger_is_sent_on(tmp_path: Path) -> None:
    (tmp_path / "tagger.onnx").write_bytes(b"\x08\x0a")
    with pytest.raises(CheckpointError, match=r"an exported tagger; open it with audioset_dcls\.Tagger"):
        load_checkpoint(tmp_path / "tagger.onnx")


def test_published_names() -> None:
    published = available_checkpoints()
    assert list(published) == [
        *("convnext_dcls", "fastvit_dcls", "convformer_dcls", "convformer"),
        *("efficientat_mn04", "efficientat_mn10", "efficientat_mn20"),
        *("efficientat_dymn04", "efficientat_dymn10", "efficientat_dymn20"),
    ]
    for entry in published.values():
        origin = "github.com/fschmid56/EfficientAT" if "mn" in entry.trunk else "zenodo.org/records/8370979"
        assert entry.url.startswith(f"https://{origin}/")
        assert ("dcls" in entry.url) == entry.dcls
        assert 40 < entry.mean_average_precision < 50
        assert entry.licence
        assert (entry.sha256 is None) == (entry.size is None)


@pytest.mark.parametrize("name", ["convnext_dcls", "efficientat_mn04", "efficientat_dymn04"])
def test_published_gmacs(name: str) -> None:
    """As PyTorch counts them for a clip of 10 s; on no device, where nothing is computed."""
    entry = available_checkpoints()[name]
    with torch.device("meta"):
        model = fold(create_model(entry.trunk, dcls=entry.dcls).eval(), tolerance=None, plain=True)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, 1, 128, 1001))
    assert counter.get_total_flops() / 2e9 == pytest.approx(entry.gmacs, rel=0.005, abs=0.005)


@pytest.mark.parametrize("name", ["convnext_dcls", "fastvit_dcls", "convformer_dcls", "convformer"])
def test_published_parameters(name: str) -> None:
    """With 527 classes as published.yaml has them, with 1000 as the paper's table."""
    entry = available_checkpoints()[name]
    paper = {"convnext_tiny": 28.6, "fastvit_sa24": 21.5, "convformer_s18": 26.8}[entry.trunk]
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in create_model(entry.trunk, dcls=entry.dcls, num_classes=classes).parameters())
            for classes in (527, 1000)
        ]
    assert counts[0] == entry.parameters
    assert counts[1] / 1e6 == pytest.approx(paper, abs=0.05)


def test_published_table() -> None:
    """The page's table says what published.yaml says."""
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    for name, entry in available_checkpoints().items():
        size = f"{entry.size / 1e6:.1f}" if entry.size else f"~{4 * entry.parameters / 1e6:.0f}"
        numbers = f"{entry.mean_average_precision:.1f} | {entry.parameters / 1e6:.1f} M | {entry.gmacs:.2f}"
        assert f"| `{name}` | {numbers} | {size} MB | {entry.licence} |" in page
