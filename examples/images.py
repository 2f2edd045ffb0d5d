"""DCLS against 7 x 7 kernels on images: python examples/images.py

scikit-learn's 1,797 digits, enlarged to 24 x 24 pixels, each on a noisy canvas of 32 x 32 at a random place; a small
ConvNeXt. Prints the accuracy on held-out digits, mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from audioset_dcls import create_model
from audioset_dcls.dcls import dcls_layers, fold

CANVAS, BATCH = 32, 32
SHAPE = {"depths": [1, 1, 1, 1], "dims": [16, 32, 64, 96], "ls_init_value": 0.1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    arguments = parser.parse_args()
    for title, dcls in (("7 x 7", False), ("DCLS 23 x 23 / 26", True)):
        scores = [run(seed, arguments.epochs, dcls=dcls) for seed in range(arguments.seeds)]
        print(
            f"{title:18} {100 * np.mean(scores):.1f} ± {100 * np.std(scores, ddof=len(scores) > 1):.1f} %", flush=True
        )


def run(
    seed: int, epochs: int, watch: Callable[[int, nn.Module], object] = lambda step, model: None, **options: Any
) -> float:
    """Train, and give the accuracy on held-out digits of the folded model.

    Args:
        watch: is called with each step's number and the model.
        options: of `create_model`.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    digits, targets = load_digits(return_X_y=True)
    split = train_test_split(digits, targets, test_size=0.3, random_state=0, stratify=targets)
    train, held_out = (torch.from_numpy(part / 16).float().reshape(-1, 1, 8, 8) for part in split[:2])
    train_targets, held_out_targets = (torch.from_numpy(part) for part in split[2:])
    model = create_model("convnext_atto", input="image", num_classes=10, **SHAPE, **options)
    positions = [p for name, p in model.named_parameters() if name.endswith(("positions", "deviations"))]
    others = [p for name, p in model.named_parameters() if not name.endswith(("positions", "deviations"))]
    # as in the papers: five times the learning rate and no weight decay for what places the elements
    groups = [{"params": others, "weight_decay": 0.05}]
    if positions:
        groups.append({"params": positions, "weight_decay": 0.0, "lr": 5 * 2e-3})
    optimizer = torch.optim.AdamW(groups, lr=2e-3)
    steps = epochs * (len(train) // BATCH)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, [g["lr"] for g in optimizer.param_groups], steps)
    for step in range(steps):
        if step % (len(train) // BATCH) == 0:
            order = torch.randperm(len(train), generator=generator)
        batch = order[(step % (len(train) // BATCH)) * BATCH :][:BATCH]
        loss = F.cross_entropy(model(on_canvas(train[batch], generator)), train_targets[batch], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        for layer in dcls_layers(model):
            layer.clamp_positions()
        watch(step, model)
    fold(model.eval())
    with torch.inference_mode():
        logits = model(on_canvas(held_out, torch.Generator().manual_seed(0)))
    return float((logits.argmax(1) == held_out_targets).float().mean())


def on_canvas(digits: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, 8, 8) in [0, 1] -> (B, 3, 64, 64), each enlarged four times and placed at random, in noise."""
    large = F.interpolate(digits, scale_factor=3, mode="bilinear")
    canvas = 0.1 * torch.randn(len(digits), 1, CANVAS, CANVAS, generator=generator)
    places = torch.randint(0, CANVAS - large.shape[-1] + 1, (len(digits), 2), generator=generator)
    for image, digit, (top, left) in zip(canvas, large, places.tolist(), strict=True):
        image[:, top : top + digit.shape[-2], left : left + digit.shape[-1]] += digit
    return canvas.expand(-1, 3, -1, -1)


if __name__ == "__main__":
    main()
