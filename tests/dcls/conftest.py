"""What several tests of the method share."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn


@pytest.fixture(scope="module")
def convnext() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("convnext_atto", in_chans=1, num_classes=5).eval()
