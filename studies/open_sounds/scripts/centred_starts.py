"""Writes two untrained small ConvNeXts whose kernels start as DCLS elements do: narrow, in the middle.

centred.ckpt: 7 x 7, from 26 elements in 23 x 23 cells. centred_3x3.ckpt: 3 x 3, from 26 elements in 3 x 3 cells.

python studies/open_sounds/scripts/centred_starts.py runs/study
"""

import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from audioset_dcls.dcls import dcls_layers
from audioset_dcls.models import AudioTagger, save_checkpoint
from audioset_dcls.training.run import build

CONFIGS = Path(__file__).parents[1] / "configs"


def create(name: str, **change: Any) -> AudioTagger:
    settings: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"model/{name}.yaml"))
    model: AudioTagger = build(settings | change)
    return model


@torch.no_grad()
def start_like_dcls(model: AudioTagger, started: AudioTagger) -> None:
    """Gives each depthwise convolution of `model` the middle of the kernel that the DCLS layer in its place has."""
    layers = [layer for name, layer in model.named_modules() if name.endswith("conv_dw")]
    for layer, dcls in zip(layers, dcls_layers(started), strict=True):
        assert isinstance(layer, nn.Conv2d)
        kernel, size = dcls.dense_kernel(), layer.kernel_size[0]
        border = (kernel.shape[-1] - size) // 2  # elements start so near the middle that nothing lies there
        layer.weight.copy_(kernel[..., border : border + size, border : border + size])


def main(folder: Path) -> None:
    for name, size, cells in (("centred", 7, 23), ("centred_3x3", 3, 3)):
        torch.manual_seed(0)
        model = create("small_convnext", dcls=False, kernel_sizes=size)
        start_like_dcls(model, create("small_convnext", dilated_kernel_size=cells))
        save_checkpoint(folder / f"{name}.ckpt", model)


main(Path(sys.argv[1]))
