"""Models on images: the papers' sizes, the authors' files, the maps of each stage under a detector."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from pathlib import Path

import pytest
import timm
import torch
from DCLS.construct.modules import Dcls2d as ReferenceDcls2d
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork

from audioset_dcls.dcls import dcls_layers
from audioset_dcls.models import (
    CheckpointError,
    ImageClassifier,
    create_model,
    load_checkpoint,
    load_image_checkpoint,
    save_checkpoint,
)

SMALL = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}
BILINEAR_17 = {"dilated_kernel_size": 17, "interpolation": "bilinear"}


@pytest.mark.parametrize(
    ("name", "options", "millions", "digits"),
    [
        # the authors' repository ConvNeXt-dcls, in whole millions
        ("convnext_tiny", {"kernel_count": 34, **BILINEAR_17}, 28.6, 1),
        pytest.param("convnext_small", {"kernel_count": 40, **BILINEAR_17}, 50, 0, marks=pytest.mark.slow),
        pytest.param("convnext_base", {"kernel_count": 40, **BILINEAR_17}, 89, 0, marks=pytest.mark.slow),
        # 2309.13972, whose counts are of models with 1000 classes
        ("convnext_tiny", {}, 28.6, 1),
        ("convformer_s18", {}, 26.8, 1),
        pytest.param("fastvit_sa24", {}, 21.5, 1, marks=pytest.mark.slow),
    ],
)
def test_parameters_are_those_of_the_papers(name: str, options: dict, millions: float, digits: int) -> None:
    with torch.device("meta"):
        model = create_model(name, input="image", **options)
        assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, digits) == millions


def test_resnet_has_the_authors_elements() -> None:
    with torch.device("meta"):
        model = create_model("resnet50", input="image")
    (layer, *others) = dcls_layers(model)
    assert len(others) == 15
    assert (layer.kernel_count, layer.dilated_kernel_size, layer.interpolation) == (5, (7, 7), "bilinear")


class LayerNorm(nn.LayerNorm):
    """Over the channels of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Block(nn.Module):
    def __init__(self, width: int, positions: nn.Parameter) -> None:
        super().__init__()
        self.dwconv = ReferenceDcls2d(width, width, 34, padding=8, dilated_kernel_size=17, groups=width, version="v0")
        self.dwconv.P = positions
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(0.5 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).movedim(1, -1))
        return x + (self.gamma * self.pwconv2(nn.functional.gelu(self.pwconv1(y)))).movedim(-1, 1)


class AuthorsConvNeXt(nn.Module):
    """ConvNeXt-T with the layers, names and shapes of the authors' file, on `dcls`."""

    def __init__(self) -> None:
        super().__init__()
        widths = (96, 192, 384, 768)
        self.downsample_layers = nn.ModuleList([nn.Sequential(nn.Conv2d(3, 96, 4, 4), LayerNorm(96, eps=1e-6))])
        for before, after in pairwise(widths):
            self.downsample_layers.append(nn.Sequential(LayerNorm(before, eps=1e-6), nn.Conv2d(before, after, 2, 2)))
        self.stages = nn.ModuleList()
        for width, depth in zip(widths, (3, 3, 9, 3), strict=True):
            positions = nn.Parameter(torch.rand(2, width, 1, 34) * 6 - 3)
            self.stages.append(nn.Sequential(*(Block(width, positions) for _ in range(depth))))
        self.norm, self.head = nn.LayerNorm(768, eps=1e-6), nn.Linear(768, 10)

    def forward(self, x: Tensor) -> Tensor:
        for down, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(down(x))
        return self.head(self.norm(x.mean((-2, -1))))


@pytest.mark.slow
def test_the_authors_convnext_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = AuthorsConvNeXt().eval()
    torch.save({"model": theirs.state_dict()}, tmp_path / "convnext_dcls_tiny_1k_224_ema.pth")
    ours = load_image_checkpoint(tmp_path / "convnext_dcls_tiny_1k_224_ema.pth")
    assert ours.config["name"] == "convnext_tiny"
    assert (ours.config["kernel_count"], ours.config["dilated_kernel_size"]) == (34, 17)
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        # float32 through 18 blocks of another order of operations
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_authors_resnet_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("resnet50", num_classes=10).eval()
    shared: dict[int, nn.Parameter] = {}
    for name, conv in list(theirs.named_modules()):
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
            sizes = {"dilated_kernel_size": 7, "padding": 3, "stride": conv.stride}
            layer = ReferenceDcls2d(conv.in_channels, conv.out_channels, 5, bias=False, version="v0", **sizes)
            layer.P = shared.setdefault(conv.in_channels, layer.P)
            theirs.set_submodule(name, layer)
    torch.save({"state_dict_ema": theirs.state_dict()}, tmp_path / "resnet.pth.tar")
    ours = load_image_checkpoint(tmp_path / "resnet.pth.tar")
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_own_checkpoints_say_what_they_are_for(tmp_path: Path) -> None:
    torch.manual_seed(0)
    image = create_model("convnext_atto", input="image", num_classes=3, **SMALL)
    audio = create_model("convnext_atto", num_classes=3, **SMALL)
    save_checkpoint(tmp_path / "image.ckpt", image.eval(), labels=["a", "b", "c"])
    save_checkpoint(tmp_path / "audio.ckpt", audio)
    loaded = load_image_checkpoint(tmp_path / "image.ckpt")
    assert isinstance(loaded, ImageClassifier)
    assert loaded.labels == ("a", "b", "c")
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(loaded(x), image(x), rtol=0, atol=0)
    with pytest.raises(CheckpointError, match=r"image\.ckpt: holds a model on images"):
        load_checkpoint(tmp_path / "image.ckpt")
    with pytest.raises(CheckpointError, match=r"audio\.ckpt: holds a tagger"):
        load_image_checkpoint(tmp_path / "audio.ckpt")


@pytest.mark.parametrize("name", ["convnext_atto", "fastvit_t8", "resnet18"])
def test_maps_of_each_stage(name: str) -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        model = create_model(name, input="image", features_only=True)
        maps = model(torch.zeros(2, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [
        (2, channels, 16 >> stage, 24 >> stage) for stage, channels in enumerate(model.channels)
    ]


def test_maps_of_a_short_clip_and_of_no_stages() -> None:
    model = create_model("convnext_atto", features_only=True, **SMALL)
    assert model(torch.zeros(1, 1, 128, 20))[-1].shape == (1, 32, 8, 1)
    with pytest.raises(ValueError, match="efficientat_mn04 gives no features of its stages"):
        create_model("efficientat_mn04", features_only=True)


class Backbone(nn.Module):
    """docs/images.md has it."""

    def __init__(self, body: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.body, self.out_channels = body, out_channels
        self.pyramid = FeaturePyramidNetwork(body.channels, out_channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.pyramid(OrderedDict((str(i), m) for i, m in enumerate(self.body(images))))


def test_a_detection_head_trains_on_the_maps() -> None:
    torch.manual_seed(0)
    body = create_model("convnext_atto", input="image", features_only=True, **SMALL)
    anchors = AnchorGenerator(sizes=((16,), (32,), (64,), (96,)), aspect_ratios=((1.0,),) * 4)
    detector = RetinaNet(Backbone(body, 16), num_classes=2, anchor_generator=anchors, min_size=96, max_size=96)
    images = [torch.rand(3, 96, 96)]
    targets = [{"boxes": torch.tensor([[20.0, 24.0, 52.0, 60.0]]), "labels": torch.tensor([1])}]
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        loss = sum(detector(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    assert all(layer.positions.grad.abs().sum() > 0 for layer in dcls_layers(body))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet50", {}, "no stem for spectrograms"),
        ("efficientat_mn04", {"input": "image"}, "no form for images"),
        ("convnext_atto", {"input": "video"}, "input"),
    ],
)
def test_what_does_not_go_together_is_named(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model(name, **options)
