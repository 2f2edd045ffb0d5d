"""The examples and the study of positions: their parts against what is known, and that they run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.images import CANVAS, on_canvas
from examples.spiking_delays import INPUTS, STEPS, fire, samples
from studies.positions.positions import exponent, mean_squared_displacement
from tests.conftest import environment

ROOT = Path(__file__).parents[2]


def test_a_neuron_fires_when_its_input_adds_up() -> None:
    """Half of the membrane is left after a step: two inputs of 0.8 fire together or one after the other, not apart."""
    current = torch.zeros(3, 1, 6)
    current[0, 0, 1] = 1.6
    current[1, 0, [1, 2]] = 0.8
    current[2, 0, [1, 4]] = 0.8
    assert fire(current)[:, 0].tolist() == [[0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0] * 6]
    current.requires_grad_()
    fire(current).sum().backward()
    assert (current.grad[:, 0, 1] > 0).all()  # the surrogate has a gradient below the threshold, too


def test_spikes_of_a_class_keep_their_distances() -> None:
    generator = torch.Generator().manual_seed(0)
    patterns = torch.arange(INPUTS).expand(1, -1)
    spikes = samples(patterns, torch.zeros(500, dtype=torch.long), generator)
    assert spikes.shape == (500, INPUTS, STEPS)

    def share(lag: int) -> float:
        """Of the samples in which the last input has a spike `lag` steps after one of the first, within 2 steps."""
        near = torch.nn.functional.max_pool1d(spikes[:, -1:], 5, stride=1, padding=2)[:, 0]
        return ((spikes[:, 0, : STEPS - lag] * near[:, lag:]).sum(-1) > 0).float().mean().item()

    assert share(INPUTS - 1) > 0.75  # 0.81 expected: both are kept with 0.9 each; jitter of one step
    assert share(INPUTS + 5) < 0.5  # what is spurious
    assert spikes[:, 0].argmax(-1).float().std() > 2  # the shift


def test_digits_lie_on_the_canvas() -> None:
    digits = torch.ones(50, 1, 8, 8)
    canvas = on_canvas(digits, torch.Generator().manual_seed(0))
    assert canvas.shape == (50, 3, CANVAS, CANVAS)
    assert ((canvas[:, 0] > 0.5).sum((1, 2)) == 24 * 24).all()


def test_exponents_of_known_motions() -> None:
    random = np.random.default_rng(0)
    steps = random.normal(0, 0.01, (1000, 2, 300)).astype(np.float32)
    assert exponent(mean_squared_displacement(steps.cumsum(0))) == pytest.approx(1, abs=0.05)
    straight = np.arange(1000, dtype=np.float32)[:, None, None] * steps[:1]
    assert exponent(mean_squared_displacement(straight)) == pytest.approx(2, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["examples/images.py", "--seeds", "1", "--epochs", "1"],
        ["examples/spiking_delays.py", "--seeds", "1", "--epochs", "1", "--plot", "{}/plot.png"],
        ["studies/positions/positions.py", "--sizes", "7", "--seeds", "1", "--epochs", "4", "--plot", "{}/plot.png"],
    ],
    ids=lambda command: Path(command[0]).name,
)
def test_they_run(command: list[str], tmp_path: Path) -> None:
    words = [word.format(tmp_path) for word in command]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 2
    assert ("--plot" in command) == (tmp_path / "plot.png").exists()
