"""Delays: where they are, how they narrow, and that whole ones are exactly that."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from audioset_dcls.dcls import Dcls1d, dcls_layers, narrow_delays, round_delays, spread_delays, synaptic_delays


def layer(count: int = 1, size: int = 25) -> Dcls1d:
    torch.manual_seed(0)
    made = Dcls1d(3, 4, count, dilated_kernel_size=size, padding="causal", bias=False)
    spread_delays(made)
    return made


@pytest.mark.parametrize("size", [25, 24])
def test_a_delayed_spike_arrives_as_much_later(size: int) -> None:
    synapse = layer(size=size)
    assert 0 <= synaptic_delays(synapse).min() < 5
    assert size - 6 < synaptic_delays(synapse).max() <= size - 1
    expected = synaptic_delays(synapse).round().long().squeeze(-1)
    model = round_delays(nn.Sequential(synapse))
    assert list(dcls_layers(model)) == []
    spikes = torch.zeros(3, 3, 40)  # each input alone
    spikes[range(3), range(3), 5] = 1
    with torch.inference_mode():
        arrived = model(spikes)
    assert ((arrived != 0).sum(-1) == 1).all()
    assert torch.equal(arrived.abs().argmax(-1).T - 5, expected)
    torch.testing.assert_close(arrived.abs().amax(-1).T, synapse.weight.abs().squeeze(-1), rtol=0, atol=1e-6)


def test_deviations_fall_exponentially_and_are_not_learned() -> None:
    model = nn.Sequential(layer(), nn.ReLU(), layer())
    widths = [narrow_delays(model, epoch / 40) for epoch in range(40)]
    assert widths[0] == 12
    assert widths[10:] == pytest.approx([0.5] * 30)
    assert [b / a for a, b in pairwise(widths[:11])] == pytest.approx([(0.5 / 12) ** 0.1] * 10)
    for synapse in dcls_layers(model):
        assert not synapse.deviations.requires_grad
        assert (synapse.deviations.abs() + 0.27).unique().tolist() == pytest.approx([0.5])


def test_a_wide_delay_gets_a_gradient_from_afar() -> None:
    """What the schedule is for: a narrow one far from the spike has none."""
    gradients = []
    for progress in (0.0, 1.0):
        synapse = Dcls1d(1, 1, 1, dilated_kernel_size=25, padding="causal", bias=False)
        nn.init.constant_(synapse.positions, -8.0)
        nn.init.ones_(synapse.weight)
        narrow_delays(synapse, progress)
        spikes = torch.zeros(1, 1, 30)
        spikes[..., 20] = 1
        synapse(spikes)[..., 22].sum().backward()  # two steps later, where the delay is twenty
        gradients.append(synapse.positions.grad.abs().item())
    assert gradients[0] > 1e-4
    assert gradients[1] < 1e-30


def test_other_layers_are_named() -> None:
    with pytest.raises(ValueError, match="no DCLS layers"):
        narrow_delays(nn.Linear(2, 2), 0.0)
    with pytest.raises(ValueError, match="interpolation bilinear"):
        round_delays(Dcls1d(1, 1, 1, dilated_kernel_size=5, interpolation="bilinear"))
