"""Augmentation: each step against its definition, per-clip randomness, reproducible from a generator."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from preprocessing.audio import read_audio
from preprocessing.augment import (
    ERASED_AREA,
    Augment,
    mixup,
    random_erasing,
    random_gain,
    random_roll,
    shift_bands,
    smooth_labels,
    spec_augment,
    speed_perturbation,
)
from preprocessing.log_mel import LogMel, pad_or_trim

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def recordings(samples: int = 32_000) -> torch.Tensor:
    names = ["guitar.ogg", "cow.ogg", "frogs.ogg", "helicopter.ogg", "applause.wav", "thunder.wav"]
    return torch.stack([torch.from_numpy(pad_or_trim(read_audio(RECORDINGS / name), samples)) for name in names])


def test_roll_rotates_each_clip_by_its_own_shift():
    waveform = torch.arange(1000.0).repeat(200, 1)
    rolled = random_roll(waveform, generator())
    shifts = rolled.argmin(1)
    for clip, shift in zip(rolled, shifts.tolist(), strict=True):
        assert torch.equal(clip, waveform[0].roll(shift))
    assert len(shifts.unique()) > 150  # 181 of 1000 are expected
    assert 400 < shifts.float().mean() < 600


def test_speed_perturbation_equals_nearest_neighbour_of_its_definition():
    """Written out clip by clip in float64 with the same random numbers."""
    samples = 3001
    waveform = torch.randn(300, samples, generator=generator(1))
    actual = speed_perturbation(waveform, generator(2), 0.5, (0.5, 1.5))
    chosen, rate, place = torch.rand((3, 300, 1), generator=generator(2)).double().squeeze(-1).numpy()
    unchanged = 0
    for clip, output, c, r, p in zip(waveform.numpy(), actual.numpy(), chosen, 0.5 + rate, place, strict=True):
        if c >= 0.5:
            unchanged += 1
            np.testing.assert_array_equal(output, clip)
            continue
        stretched = clip[np.round(np.arange(0, samples, 1 / r)).astype(int).clip(max=samples - 1)]
        if len(stretched) <= samples:
            start = math.floor(p * (samples - len(stretched) + 1))
            expected = np.pad(stretched, (start, samples - len(stretched) - start))
        else:
            start = math.floor(p * (len(stretched) - samples))
            expected = stretched[start : start + samples]
        # positions are float32: of those half-way between two samples some round to the other neighbour
        assert np.mean(output != expected) < 0.01
    assert 120 < unchanged < 180


@pytest.mark.parametrize("rate", [0.5, 0.8, 1.25, 1.5])
def test_speed_perturbation_shifts_pitch(rate: float):
    """A tone of 1 kHz stretched by `rate` has 1000 / rate Hz."""
    waveform = torch.sin(2 * math.pi * 1000 * torch.arange(32_000) / 32_000)[None]
    output = speed_perturbation(waveform, generator(), 1.0, (rate, rate))
    peak = torch.fft.rfft(output[0] * torch.hann_window(32_000)).abs().argmax()
    assert abs(peak.item() - 1000 / rate) <= 2
    sounding = (output[0] != 0).sum().item()
    assert sounding == pytest.approx(min(rate, 1) * 32_000, rel=0.05)


def test_erased_share_and_rectangles():
    power = torch.ones(400, 513, 101)
    erased = random_erasing(power, generator(), 0.25)
    assert torch.equal(power, torch.ones_like(power))  # the input is left as it is
    holes = erased == 0
    hit = holes.flatten(1).any(1)
    assert 60 < hit.sum() < 140
    places = set()
    for hole in holes[hit]:
        rows, columns = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
        height, width = len(rows), len(columns)
        assert hole.sum() == height * width == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        rounding = (height + width) / 2 + 1  # height and width are each rounded by up to a half
        low, high = (limit * 513 * 101 for limit in ERASED_AREA)
        assert low - rounding <= height * width <= high + rounding
        assert 0.3 * 0.9 <= height / width <= 1 / (0.3 * 0.9)
        places.add((rows[0].item(), columns[0].item()))
    assert len(places) > 0.9 * hit.sum()


def test_spec_augment_masks_a_stretch_of_each_axis():
    log_mel = torch.ones(300, 1, 128, 1001)
    masked = spec_augment(log_mel, generator(), time_mask=192, frequency_mask=48)
    frames = (masked == 0).all(2)[:, 0].sum(1)
    bands = (masked == 0).all(3)[:, 0].sum(1)
    assert frames.max() <= 192
    assert bands.max() <= 48
    assert frames.float().mean() == pytest.approx(96, abs=15)
    assert bands.float().mean() == pytest.approx(24, abs=5)
    assert torch.equal(spec_augment(log_mel, generator()), log_mel)


def test_mixup_is_linear_with_one_ratio():
    x, target = torch.randn(8, 1, 4, 5), torch.rand(8, 3) > 0.5
    mixture = mixup(8, generator(3))
    assert sorted(mixture.permutation.tolist()) == list(range(8))
    expected = mixture.ratio * x + (1 - mixture.ratio) * x[mixture.permutation]
    torch.testing.assert_close(mixture(x), expected)
    y = target.float()
    torch.testing.assert_close(mixture(target), mixture.ratio * y + (1 - mixture.ratio) * y[mixture.permutation])
    assert mixture(torch.rand(8, 3).half()).dtype == torch.float16


def test_mixup_ratio_follows_beta():
    """Beta(0.8, 0.8): mean 1/2, variance 1 / (4 (2 alpha + 1)) = 0.0962."""
    source = generator(4)
    ratios = torch.tensor([mixup(2, source, 0.8).ratio for _ in range(4000)])
    assert ratios.mean().item() == pytest.approx(0.5, abs=0.02)
    assert ratios.var().item() == pytest.approx(1 / (4 * 2.6), abs=0.006)


def test_label_smoothing_is_the_references():
    target = torch.tensor([[True, False, False, False, True]])
    torch.testing.assert_close(smooth_labels(target), torch.tensor([[0.92, 0.02, 0.02, 0.02, 0.92]]))
    assert torch.equal(smooth_labels(target, 0), target.float())


def test_everything_off_is_the_log_mel():
    waveform, log_mel = recordings(), LogMel()
    off = Augment(roll=False, speed_probability=0, erase_probability=0, mixup_alpha=0, label_smoothing=0)
    x, mixture = off(waveform, log_mel, generator())
    assert torch.equal(x, log_mel(waveform))
    target = torch.rand(6, 527) > 0.9
    assert torch.equal(mixture(target), target.float())


@pytest.mark.parametrize(
    "change",
    [
        {"roll": True},
        {"speed_probability": 1.0},
        {"erase_probability": 1.0},
        {"time_mask": 50},
        {"frequency_mask": 48},
        {"mixup_alpha": 0.8},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_step_alone_changes_the_batch(change: dict):
    waveform, log_mel = recordings(), LogMel()
    off = {"roll": False, "speed_probability": 0, "erase_probability": 0, "mixup_alpha": 0}
    x, _ = Augment(**(off | change))(waveform, log_mel, generator(5))
    assert x.shape == (6, 1, 128, 101)
    assert x.isfinite().all()
    assert not torch.equal(x, log_mel(waveform))


def test_generator_decides_alone():
    waveform, log_mel, augment = recordings(), LogMel(), Augment(time_mask=20, frequency_mask=20)
    torch.manual_seed(1)
    first, mixture = augment(waveform, log_mel, generator(6))
    torch.manual_seed(2)
    np.random.seed(3)
    again, same = augment(waveform, log_mel, generator(6))
    other, _ = augment(waveform, log_mel, generator(7))
    assert torch.equal(first, again)
    assert mixture.ratio == same.ratio
    assert torch.equal(mixture.permutation, same.permutation)
    assert not torch.equal(first, other)
    state = torch.get_rng_state()
    augment(waveform, log_mel, generator(8))
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is not touched


def test_clips_differ_from_one_another():
    """Twelve copies of one clip come out as twelve different ones."""
    waveform = recordings()[:1].repeat(12, 1)
    x, _ = Augment(mixup_alpha=0)(waveform, LogMel(), generator(9))
    assert len({clip.numpy().tobytes() for clip in x}) == 12


def test_works_where_the_batch_is():
    """On the meta device, which computes nothing and refuses tensors of other devices, with a generator on the CPU."""
    waveform = torch.zeros(4, 3200, device="meta")
    assert speed_perturbation(waveform, generator()).device.type == "meta"
    assert random_roll(waveform, generator()).device.type == "meta"
    assert random_erasing(torch.zeros(4, 513, 11, device="meta"), generator()).device.type == "meta"
    x, mixture = Augment(time_mask=5)(waveform, LogMel().to("meta"), generator())
    assert x.shape == (4, 1, 128, 11)
    assert x.device.type == mixture(torch.zeros(4, 527, device="meta")).device.type == "meta"


def test_bands_shift_by_whole_bands_and_the_edge_follows():
    log_mel = torch.arange(128.0)[None, None, :, None].expand(400, 1, 128, 3)
    shifted = shift_bands(log_mel, generator(), 2)
    by = (shifted[:, 0, 64, 0] - 64).long()
    assert by.unique().tolist() == [-2, -1, 0, 1, 2]
    assert (by == 0).float().mean() < 0.3  # 0.2 is expected
    for clip, shift in zip(shifted, by.tolist(), strict=True):
        assert torch.equal(clip, (torch.arange(128.0) + shift).clamp(0, 127)[None, :, None].expand(1, 128, 3))
    assert shift_bands(log_mel, generator(), 0) is log_mel


def test_gain_adds_decibels_to_each_clip():
    """As playing the waveform louder does: LogMel of a clip times 10^(g / 20) is that of the clip plus g."""
    waveform = recordings()
    log_mel = LogMel()(waveform)
    louder = random_gain(log_mel, generator(), 6.0)
    gains = 30.5735 * (louder - log_mel).mean((1, 2, 3))
    assert len(gains.unique()) == len(gains)
    assert gains.abs().max() <= 6
    again = LogMel()(waveform * 10 ** (gains[:, None] / 20))
    loud = log_mel > log_mel.amax((1, 2, 3), keepdim=True) - 2  # 60 dB, far from the floor
    torch.testing.assert_close(louder[loud], again[loud], atol=1e-3, rtol=0)
    assert random_gain(log_mel, generator(), 0.0) is log_mel
