"""Writes two untrained small ConvNeXts whose kernels start as DCLS elements do: narrow, in the middle.

centred.ckpt: 7 x 7, from 26 elements in 23 x 23 cells. centred_3x3.ckpt: 3 x 3, from 26 elements in 3 x 3 cells.

python docs/results/centred_starts.py runs/study
"""

import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from audioset_dcls.dcls import dcls_layers
from audioset_dcls.folders import data_folder
from audioset_dcls.models import AudioTagger, save_checkpoint
from audioset_dcls.training.run import build


def create(name: str, **change: Any) -> AudioTagger:
    settings: Any = OmegaConf.to_container(OmegaConf.load(data_folder("configs") / f"model/{name}.yaml"))
    model: AudioTagger = build(settings | change)
    return model


def depthwise(model: AudioTagger) -> list[nn.Conv2d]:
    return [layer for name, layer in model.named_modules() if name.endswith("conv_dw") and isinstance(layer, nn.Conv2d)]


@torch.no_grad()
def start_like_dcls(model: AudioTagger, started: AudioTagger) -> None:
    for layer, dcls in zip(depthwise(model), dcls_layers(started), strict=True):
        kernel, size = dcls.dense_kernel(), layer.kernel_size[0]
        border = (kernel.shape[-1] - size) // 2  # elements start so near the middle that nothing lies there
        layer.weight.copy_(kernel[..., border : border + size, border : border + size])


folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)

torch.manual_seed(0)
model, started = create("small_convnext"), create("small_convnext_dcls")
start_like_dcls(model, started)
save_checkpoint(folder / "centred.ckpt", model)

torch.manual_seed(0)
model, started = create("small_convnext", kernel_sizes=3), create("small_convnext_dcls", dilated_kernel_size=3)
start_like_dcls(model, started)
save_checkpoint(folder / "centred_3x3.ckpt", model)
