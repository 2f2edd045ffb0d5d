"""create_model on small trunks of the three families: shapes, lengths, sharing, ImageNet weights, copies, export."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import metaformer
from torch import nn

from audioset_dcls.dcls import dcls_layers, fold
from audioset_dcls.models import AudioTagger, create_model, reparameterize

SMALL: dict[str, dict[str, Any]] = {
    "test_convnext": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
    "convnext_atto_ols": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
    "convnextv2_atto": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
    "convformer_s18": {"depths": (1, 1, 1, 1), "dims": (16, 32, 64, 96)},
    "caformer_small": {},
    "fastvit_t8": {"layers": (1, 1, 1, 1), "embed_dims": (8, 16, 32, 64)},
    "fastvit_sa12": {"layers": (1, 1, 1, 1), "embed_dims": (8, 16, 32, 64)},
}
FAMILIES = ("test_convnext", "convformer_s18", "fastvit_sa12")


def caformer_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """timm has no small CAFormer and its factories let nobody choose another depth: add one to its registry."""
    kinds = {
        "token_mixers": [metaformer.SepConv] * 2 + [metaformer.Attention] * 2,
        "norm_layers": [metaformer.LayerNorm2dNoBias] * 2 + [metaformer.LayerNormNoBias] * 2,
    }
    sizes = {"depths": (1, 1, 1, 1), "dims": (16, 32, 64, 96)}
    return metaformer._create_metaformer("caformer_s18", pretrained=pretrained, **kinds, **sizes, **kwargs)


caformer_small.__module__ = metaformer.__name__
timm.models.register_model(caformer_small)


def small(name: str, **arguments: Any) -> AudioTagger:
    arguments = {"num_classes": 5, "kernel_count": 6, "dilated_kernel_size": 11, **SMALL[name], **arguments}
    return create_model(name, **arguments).eval()


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> AudioTagger:
    torch.manual_seed(0)
    return small(request.param)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("dcls", [False, True])
def test_logits_maps_and_embeddings(name: str, dcls: bool) -> None:
    model = small(name, dcls=dcls)
    log_mel = torch.randn(2, 1, 128, 1001)
    maps = []
    model.trunk.stem.register_forward_hook(lambda _module, _inputs, output: maps.append(output.shape))
    with torch.inference_mode():
        assert model(log_mel).shape == (2, 5)
        assert model.forward_features(log_mel).shape[:1] == (2,)
        embedding = model.embed(log_mel)
        assert embedding.shape == (2, model.num_features)
        torch.testing.assert_close(model.trunk.get_classifier()(embedding), model(log_mel))
    assert maps[0][2:] == (64, 62)
    assert any(True for _ in dcls_layers(model)) == dcls


def test_convformer_of_other_sizes_is_timms() -> None:
    sizes = {"depths": (3, 3, 9, 3), "dims": (64, 128, 320, 512)}  # ConvFormer-S18's own
    with torch.device("meta"):
        ours, timms = create_model("convformer_s18", **sizes), create_model("convformer_s18")
    assert str(ours) == str(timms)


def test_defaults_are_the_papers() -> None:
    model = create_model("convnext_atto")
    layers = list(dcls_layers(model))
    assert model(torch.randn(1, 1, 128, 100)).shape == (1, 527)
    assert model.labels is not None
    assert (len(model.labels), model.labels[0]) == (527, "Speech")
    assert {layer.weight.shape[-1] for layer in layers} == {26}
    assert {layer.interpolation for layer in layers} == {"gauss"}
    assert len({id(layer.positions) for layer in layers}) == 4  # one per stage
    fold(model, tolerance=None)
    kernels = [m.weight.shape[-2:] for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert kernels == [(23, 23)] * len(layers)


def test_positions_can_be_each_layers_own() -> None:
    layers = list(dcls_layers(small("test_convnext", share_positions=False)))
    assert len({id(layer.positions) for layer in layers}) == len(layers)


def test_positions_start_as_far_out_as_asked() -> None:
    torch.manual_seed(0)
    near = next(dcls_layers(create_model("convnext_atto", num_classes=2))).positions
    torch.manual_seed(0)
    far = next(dcls_layers(create_model("convnext_atto", num_classes=2, position_std=2.0))).positions
    torch.testing.assert_close(far, 4 * near)
    assert near.std().item() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("frames", [1, 15, 16, 17, 127, 128, 400])
def test_any_number_of_frames(model: AudioTagger, frames: int) -> None:
    with torch.inference_mode():
        logits = model(torch.randn(2, 1, 128, frames))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


def test_a_short_clip_is_continued_with_silence(model: AudioTagger) -> None:
    log_mel = torch.randn(1, 1, 128, 10)
    silence = torch.full((1, 1, 128, model.minimum_frames), (10 * -10.0 + 18.2696) / 30.5735)
    silence[..., :10] = log_mel
    with torch.inference_mode():
        torch.testing.assert_close(model(log_mel), model(silence), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 128, 1001), (2, 3, 128, 1001), (2, 320_000)])
def test_other_inputs_are_refused(model: AudioTagger, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a log-mel of shape \(batch, 1, 128, frames\), got"):
        model(torch.zeros(shape))


@pytest.mark.parametrize("name", ["resnet50", "convnext_tny", "", "timm/convnext_tiny"])
def test_other_trunks_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match=r"known are convnext_\*, .*convformer_\*.*fastvit_\*"):
        create_model(name)


def test_a_misspelt_trunk_gets_a_proposal() -> None:
    with pytest.raises(ValueError, match="resnet50: timm has it, but its family has no stem for spectrograms"):
        create_model("resnet50")
    with pytest.raises(ValueError, match="did you mean convnext_tiny"):
        create_model("convnext_tny")


def test_a_trunk_without_depthwise_convolutions_needs_dcls_off() -> None:
    with pytest.raises(ValueError, match="poolformer_s12 has no 7 x 7 depthwise convolutions"):
        create_model("poolformer_s12")
    model = create_model("poolformer_s12", dcls=False, num_classes=5)
    assert model(torch.randn(1, 1, 128, 100)).shape == (1, 5)


@pytest.mark.parametrize("name", FAMILIES)
def test_config_rebuilds_the_model(name: str) -> None:
    model = small(name, drop_path_rate=0.3, drop_rate=0.2, interpolation="bilinear")
    twin = create_model(**model.config)
    assert {key: value.shape for key, value in twin.state_dict().items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }
    assert str(twin) == str(model)


def test_drop_path_and_head_dropout_reach_the_trunk() -> None:
    model = small("test_convnext", drop_path_rate=0.3, drop_rate=0.2)
    assert model.trunk.head.drop.p == 0.2
    rates = [module.drop_prob for module in model.modules() if type(module).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.3)
    assert rates == sorted(rates)  # deeper blocks drop more often


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_imagenet_weights_but_stem_and_classifier(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    source = timm.create_model("test_convnext", num_classes=1000).state_dict()
    file = tmp_path / f"imagenet{suffix}"
    save_file(source, file) if suffix == ".safetensors" else torch.save(source, file)
    model = create_model("test_convnext", dcls=False, pretrained=str(file))
    loaded = {key.removeprefix("trunk."): value for key, value in model.state_dict().items()}
    for key, value in source.items():
        if key == "stem.0.weight":
            assert loaded[key].shape == (24, 1, 2, 16)
        elif key.startswith("head.fc"):
            assert loaded[key].shape[0] == 527
        elif key != "stem.0.bias":
            assert torch.equal(loaded[key], value), key
    assert "pretrained" not in model.config


@pytest.mark.slow
def test_dcls_starts_from_the_imagenet_kernels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = timm.create_model("test_convnext", num_classes=1000, **SMALL["test_convnext"])
    centre, axis = torch.zeros(7, 7), torch.arange(7.0) - 3
    centre += torch.exp(-(axis[:, None] ** 2 + axis**2) / 2)  # smooth kernels, as trained ones are
    kernels = {}
    with torch.no_grad():
        for name, module in source.named_modules():
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                module.weight.copy_(centre * torch.randn(module.weight.shape[0], 1, 1, 1))
                kernels[name] = module.weight.clone()
    torch.save(source.state_dict(), tmp_path / "imagenet.pth")
    sizes = {"dilated_kernel_size": 11, "kernel_count": 6, "num_classes": 5, **SMALL["test_convnext"]}
    model = fold(create_model("test_convnext", pretrained=str(tmp_path / "imagenet.pth"), **sizes), tolerance=None)
    for name, kernel in kernels.items():
        fitted = model.trunk.get_submodule(name).weight
        wide = nn.functional.pad(kernel, [2] * 4)
        assert (fitted - wide).norm() < 0.1 * wide.norm(), name


def test_missing_imagenet_weights_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ImageNet weights of test_convnext \(.*nowhere\.pth\)"):
        create_model("test_convnext", pretrained=str(tmp_path / "nowhere.pth"))
    with pytest.raises(RuntimeError, match=r"ImageNet weights of convnext_atto_rms.*No pretrained weights exist"):
        create_model("convnext_atto_rms", pretrained=True)


def test_a_new_classifier(model: AudioTagger) -> None:
    changed = copy.deepcopy(model)
    log_mel = torch.randn(2, 1, 128, 200)
    changed.reset_classifier(3, ("a", "b", "c"))
    with torch.inference_mode():
        assert changed(log_mel).shape == (2, 3)
        torch.testing.assert_close(changed.embed(log_mel), model.embed(log_mel))
    assert (changed.config["num_classes"], changed.labels) == (3, ("a", "b", "c"))
    create_model(**changed.config).load_state_dict(changed.state_dict())
    assert model.config["num_classes"] == 5


def test_folding_and_merging_keep_the_output(model: AudioTagger) -> None:
    changed = copy.deepcopy(model)
    log_mel = torch.randn(2, 1, 128, 300)
    with torch.inference_mode():
        expected = model(log_mel)
        with pytest.raises(ValueError, match="fold"):
            reparameterize(changed)
        torch.testing.assert_close(fold(changed)(log_mel), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(reparameterize(changed)(log_mel), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [10, 11])
def test_merged_positional_encoding_with_odd_and_even_kernels(size: int) -> None:
    torch.manual_seed(0)
    model = small("fastvit_sa12", dilated_kernel_size=size)
    log_mel = torch.randn(1, 1, 128, 300)
    with torch.inference_mode():
        expected = model(log_mel)
        for tolerance in (None, 1e-6):
            merged = reparameterize(fold(copy.deepcopy(model), tolerance))
            torch.testing.assert_close(merged(log_mel), expected, rtol=1e-4, atol=1e-5)
            sides = merged.trunk.stages[3].pos_emb.reparam_conv.kernel_size
            assert (sides == (size, size)) == (tolerance is None)


def test_every_weight_is_trained(model: AudioTagger) -> None:
    trained = copy.deepcopy(model).train()
    trained(torch.randn(2, 1, 128, 160)).square().sum().backward()
    assert [name for name, parameter in trained.named_parameters() if parameter.grad is None] == []
    assert all(layer.positions.grad.abs().sum() > 0 for layer in dcls_layers(trained))


@pytest.mark.slow
def test_export_with_any_batch() -> None:
    model = reparameterize(fold(small("fastvit_sa12")))
    dynamic = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(model, (torch.randn(2, 1, 128, 400),), dynamic_shapes=(dynamic,))
    for batch in (1, 3):
        log_mel = torch.randn(batch, 1, 128, 400)
        torch.testing.assert_close(program.module()(log_mel), model(log_mel), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiled_as_one_graph() -> None:
    model, log_mel = small("test_convnext"), torch.randn(2, 1, 128, 160)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(log_mel), model(log_mel), rtol=1e-4, atol=1e-5)
