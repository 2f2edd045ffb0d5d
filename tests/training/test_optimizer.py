"""Which parameter gets which rate and decay, and the rate's course."""

from __future__ import annotations

from math import cos, pi

import pytest
import torch
from timm.optim import Lamb
from torch import nn

from audioset_dcls.models import create_model
from audioset_dcls.training.optimizer import Schedule, create_optimizer, parameter_groups, warmup_cosine


@pytest.mark.parametrize("name", ["convnext_atto", "convformer_s18", "fastvit_t8"])
def test_groups(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=5)
    groups = {group["name"]: group for group in parameter_groups(model, lr=1.0, weight_decay=0.05)}
    members = [id(parameter) for group in groups.values() for parameter in group["params"]]
    assert len(members) == len(set(members))
    assert set(members) == {id(parameter) for parameter in model.parameters()}
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    assert all(names[id(p)].endswith((".positions", ".deviations")) for p in groups["positions"]["params"])
    stages = {parameter.shape for parameter in groups["positions"]["params"]}
    assert len(groups["positions"]["params"]) == 2 * len(stages)  # shared: a pair for each number of channels
    assert (groups["positions"]["lr"], groups["positions"]["weight_decay"]) == (5.0, 0.0)

    assert groups["decay"]["weight_decay"] == 0.05
    assert all(names[id(p)].endswith(".weight") and p.ndim >= 2 for p in groups["decay"]["params"])
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm | nn.BatchNorm2d | nn.GroupNorm)]
    undecayed = {id(parameter) for parameter in groups["no_decay"]["params"]}
    assert norms
    assert all(id(parameter) in undecayed for norm in norms for parameter in norm.parameters())
    scales = [
        p for name, p in model.named_parameters() if "gamma" in name or "layer_scale" in name or "res_scale" in name
    ]
    assert scales
    assert all(id(scale) in undecayed for scale in scales)


def test_schedule() -> None:
    """4 steps of warm-up, then the cosine from the full rate to its floor, each group in proportion."""
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": lr} for lr in (1.0, 5.0)])
    schedule = warmup_cosine(optimizer, Schedule(15, warmup_steps=4, min_lr=0.02), lr=2.0)
    rates = []
    for _ in range(15):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    first = [rate for rate, _ in rates]
    assert first[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert first[4:] == pytest.approx([0.01 + 0.99 * (1 + cos(pi * step / 10)) / 2 for step in range(11)])
    assert [five for _, five in rates] == pytest.approx([5 * one for one in first])


def test_optimizers() -> None:
    with torch.device("meta"):
        model = create_model("convnext_atto", num_classes=5)
    assert isinstance(create_optimizer(model, "adamw"), torch.optim.AdamW)
    lamb = create_optimizer(model, "lamb", lr=4e-3)
    assert isinstance(lamb, Lamb)
    assert {group["name"]: group["lr"] for group in lamb.param_groups}["positions"] == pytest.approx(0.02)
    with pytest.raises(ValueError, match="adamw or lamb"):
        create_optimizer(model, "adam")


def test_schedule_may_stay_before_it_falls() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = warmup_cosine(optimizer, Schedule(13, warmup_steps=1, min_lr=0.1, decay_start=8 / 13), lr=1.0)
    rates = []
    for _ in range(13):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:9] == pytest.approx([0.5] + [1.0] * 8)
    assert rates[8:] == pytest.approx([0.1 + 0.9 * (1 + cos(pi * step / 4)) / 2 for step in range(5)])
