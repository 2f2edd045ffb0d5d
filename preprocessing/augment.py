"""Augmentation of batches on the device they are on, each clip by its own random numbers from one generator.

The steps and their defaults are those of the DCLS-Audio reference. In training order:

    waveform -> random_roll -> speed_perturbation -> LogMel.power -> random_erasing
             -> LogMel.from_power -> spec_augment, shift_bands, random_gain (all off) -> mixup,
    and targets -> smooth_labels -> the same mixup

A generator on the CPU gives the same numbers whatever the device of the batch, and costs no synchronisation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from preprocessing.constants import STD
from preprocessing.log_mel import LogMel

ERASED_AREA = 0.02, 1 / 3  # of the spectrogram; timm's RandomErasing, which the reference uses
ERASED_ASPECT = 0.3, 1 / 0.3  # height / width in cells
_ERASING_ATTEMPTS = 10


@dataclass(frozen=True)
class Mixture:
    """One draw of mixup; call it with the log-mels, targets, scores or embeddings of the batch.

    Each row of the result is `ratio` of the batch's row and 1 - `ratio` of the row that `permutation` puts there.
    """

    permutation: Tensor | None
    ratio: float

    def __call__(self, x: Tensor) -> Tensor:
        """(batch, ...) -> the same shape, floating point."""
        x = x if x.is_floating_point() else x.float()
        return x if self.permutation is None else torch.lerp(x[self.permutation], x, self.ratio)


@dataclass(frozen=True)
class Augment:
    """Waveforms to augmented log-mels, with the reference's settings; zero or False switches a step off.

    Args:
        roll: rotate each clip in time by a random number of samples.
        speed_probability, speed_rates: share of the clips that are stretched, range of the new over the old length.
        erase_probability: share of the clips that lose a rectangle of their power spectrogram.
        time_mask, frequency_mask: SpecAugment, the greatest width in frames and in mel bands. Off in the reference;
            192 and 48 are AST's settings (Gong et al., 2021).
        shift_bands: most mel bands that a clip is moved up or down. gain: most decibels that it gains or loses. Off in
            the reference.
        mixup_alpha: of the Beta(alpha, alpha) that gives the one mixing ratio of a batch.
        label_smoothing: see `smooth_labels`.

    >>> augment, generator = Augment(), torch.Generator().manual_seed(0)
    >>> log_mel, mixture = augment(torch.zeros(4, 320_000), LogMel(), generator)
    >>> target = mixture(smooth_labels(torch.zeros(4, 527, dtype=torch.bool), augment.label_smoothing))
    >>> log_mel.shape, target.shape
    (torch.Size([4, 1, 128, 1001]), torch.Size([4, 527]))
    """

    roll: bool = True
    speed_probability: float = 0.5
    speed_rates: tuple[float, float] = (0.5, 1.5)
    erase_probability: float = 0.25
    time_mask: int = 0
    frequency_mask: int = 0
    shift_bands: int = 0
    gain: float = 0.0
    mixup_alpha: float = 0.8
    label_smoothing: float = 0.1

    def __call__(self, waveform: Tensor, log_mel: LogMel, generator: Generator) -> tuple[Tensor, Mixture]:
        """(batch, samples) in [-1, 1] -> mixed log-mels (batch, 1, 128, frames) and the mixture for the targets."""
        if self.roll:
            waveform = random_roll(waveform, generator)
        waveform = speed_perturbation(waveform, generator, self.speed_probability, self.speed_rates)
        power = random_erasing(log_mel.power(waveform), generator, self.erase_probability)
        x = spec_augment(log_mel.from_power(power), generator, self.time_mask, self.frequency_mask)
        x = random_gain(shift_bands(x, generator, self.shift_bands), generator, self.gain, log_mel.settings.decibel)
        mixture = mixup(len(x), generator, self.mixup_alpha, x.device)
        return mixture(x), mixture


def random_roll(waveform: Tensor, generator: Generator) -> Tensor:
    """Each clip of (batch, samples) rotated by its own shift, uniform over the clip's length."""
    batch, samples = waveform.shape
    shifts = _shifts(batch, samples, generator)
    return torch.stack([clip.roll(shift) for clip, shift in zip(waveform, shifts, strict=True)])


def speed_perturbation(
    waveform: Tensor, generator: Generator, probability: float = 0.5, rates: tuple[float, float] = (0.5, 1.5)
) -> Tensor:
    """Clips of (batch, samples) played slower or faster: each new length is `rate` times the old one.

    By nearest neighbour as in the reference. A shortened clip gets zeros around it at a random place, of a lengthened
    one a random part remains.
    """
    if probability == 0:
        return waveform
    batch, samples = waveform.shape
    chosen, rate, place = _uniform((3, batch, 1), generator, waveform.device)
    step = torch.where(chosen < probability, 1 / (rates[0] + (rates[1] - rates[0]) * rate), 1.0)
    length = (samples / step).ceil()
    surplus = length - samples
    # where output sample 0 lies in the stretched clip: before its start if that is shorter, within it if longer
    start = torch.where(surplus > 0, (place * surplus).floor(), -(place * (1 - surplus)).floor())
    position = torch.arange(samples, device=waveform.device) + start
    source = (position * step).round_().clamp_(0, samples - 1).long()
    return waveform.gather(1, source).masked_fill_((position < 0) | (position >= length), 0)


def random_erasing(power: Tensor, generator: Generator, probability: float = 0.25) -> Tensor:
    """Clips of a power spectrogram (batch, bins, frames) with one rectangle set to zero.

    Area and aspect ratio are drawn anew up to ten times until the rectangle fits, as timm's `RandomErasing` does.
    """
    if probability == 0:
        return power
    batch, height, width = power.shape
    device = power.device
    area, aspect = _uniform((2, batch, _ERASING_ATTEMPTS), generator, device)
    area = (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * area) * (height * width)
    log_aspect = [math.log(limit) for limit in ERASED_ASPECT]
    aspect = torch.exp(log_aspect[0] + (log_aspect[1] - log_aspect[0]) * aspect)
    heights, widths = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (heights < height) & (widths < width)
    first = fits.int().argmax(1, keepdim=True)  # the first that fits, or 0 if none does
    chosen, top, left = _uniform((3, batch, 1), generator, device)
    erase = (chosen < probability) & fits.gather(1, first)
    rows = _span(heights.gather(1, first), top, height)
    columns = _span(widths.gather(1, first), left, width)
    return power.masked_fill(erase[..., None] & rows[:, :, None] & columns[:, None, :], 0)


def spec_augment(log_mel: Tensor, generator: Generator, time_mask: int = 0, frequency_mask: int = 0) -> Tensor:
    """Clips of (batch, 1, bands, frames) with a stretch of frames and one of bands at 0, the data set's mean.

    Each width is uniform from 0 to the given one (Park et al., 2019).
    """
    batch, _, bands, frames = log_mel.shape
    for size, greatest, shape in (
        (frames, time_mask, (batch, 1, 1, frames)),
        (bands, frequency_mask, (batch, 1, bands, 1)),
    ):
        if greatest:
            width, place = _uniform((2, batch, 1), generator, log_mel.device)
            width = (width * (min(greatest, size) + 1)).floor()
            log_mel = log_mel.masked_fill(_span(width, place, size).view(shape), 0)
    return log_mel


def shift_bands(log_mel: Tensor, generator: Generator, most: int = 0) -> Tensor:
    """Clips of (batch, 1, bands, frames), each moved up or down by 0 to `most` bands: a little higher or lower.

    What moves in is the outermost band.
    """
    if most == 0:
        return log_mel
    batch, _, bands, frames = log_mel.shape
    shift = (_uniform((batch, 1), generator, log_mel.device) * (2 * most + 1)).floor().long() - most
    source = (torch.arange(bands, device=log_mel.device) - shift).clamp(0, bands - 1)
    return log_mel.gather(2, source[:, None, :, None].expand(-1, 1, -1, frames))


def random_gain(log_mel: Tensor, generator: Generator, most: float = 0.0, decibel: float = 1 / STD) -> Tensor:
    """Normalised log-mels (batch, 1, bands, frames), each made louder or softer by up to `most` decibels.

    Args:
        decibel: in the unit of the log-mel.
    """
    if most == 0:
        return log_mel
    decibels = (2 * _uniform((len(log_mel), 1, 1, 1), generator, log_mel.device) - 1) * most
    return log_mel + decibels * decibel


def mixup(batch: int, generator: Generator, alpha: float = 0.8, device: torch.device | str = "cpu") -> Mixture:
    """A random pairing of `batch` clips and one ratio from Beta(alpha, alpha) (Zhang et al., 2018)."""
    if alpha == 0:
        return Mixture(None, 1.0)
    permutation = torch.randperm(batch, generator=generator, device=generator.device)
    return Mixture(permutation.to(device, non_blocking=True), _mixing_ratio(alpha, generator))


def smooth_labels(target: Tensor, smoothing: float = 0.1) -> Tensor:
    """(batch, classes) of 0 and 1 -> float32, each scaled by 1 - smoothing, then smoothing / classes added to all.

    With 527 classes the reference's 0.1 makes 0.00019 of 0 and 0.90019 of 1: it lowers the positives alone.
    """
    return (1 - smoothing) * target.float() + smoothing / target.shape[-1]


# Numbers that Python needs: the generator is on the CPU, so no device is waited for.


def _shifts(count: int, samples: int, generator: Generator) -> list[int]:
    """Whole numbers from 0 to `samples` - 1."""
    shifts: list[int] = (torch.rand(count, generator=generator, device=generator.device) * samples).long().tolist()
    return shifts


def _mixing_ratio(alpha: float, generator: Generator) -> float:
    """From Beta(alpha, alpha); torch's own takes no generator."""
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    return float(np.random.default_rng(int(seed)).beta(alpha, alpha))


def _uniform(shape: tuple[int, ...], generator: Generator, device: torch.device) -> Tensor:
    """Numbers in [0, 1), drawn where the generator is."""
    return torch.rand(shape, generator=generator, device=generator.device).to(device, non_blocking=True)


def _span(length: Tensor, place: Tensor, size: int) -> Tensor:
    """Lengths and places in [0, 1), (batch, 1) -> (batch, size): True over a span of that length within the size."""
    start = (place * (size - length + 1)).floor()
    cells = torch.arange(size, device=length.device)
    return (cells >= start) & (cells < start + length)
