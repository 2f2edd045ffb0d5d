"""Writes an untrained small ConvNeXt whose 7 x 7 kernels start as DCLS elements do: narrow, in the middle.

python docs/results/centred_start.py runs/study/centred.ckpt
"""

import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from audioset_dcls.dcls import dcls_layers
from audioset_dcls.folders import data_folder
from audioset_dcls.models import AudioTagger, save_checkpoint
from audioset_dcls.training.run import build


def create(name: str) -> AudioTagger:
    settings: Any = OmegaConf.to_container(OmegaConf.load(data_folder("configs") / f"model/{name}.yaml"))
    model: AudioTagger = build(settings)
    return model


torch.manual_seed(0)
model, started = create("small_convnext"), create("small_convnext_dcls")
plain = [layer for name, layer in model.named_modules() if name.endswith("conv_dw")]
with torch.no_grad():
    for layer, dcls in zip(plain, dcls_layers(started), strict=True):
        layer.weight.copy_(dcls.dense_kernel()[..., 8:15, 8:15])  # of 23 x 23 the middle, which holds all of it
path = Path(sys.argv[1])
path.parent.mkdir(parents=True, exist_ok=True)
save_checkpoint(path, model)
