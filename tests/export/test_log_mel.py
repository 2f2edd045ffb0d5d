"""The log-mel of exported graphs computes what LogMel computes."""

from __future__ import annotations

import pytest
import torch

from audioset_dcls.export.log_mel import MatmulLogMel
from preprocessing.audio import read_audio
from preprocessing.constants import EFFICIENTAT_LOG_MEL, LogMelSettings
from preprocessing.log_mel import LogMel
from tests.conftest import RECORDINGS, exact_log_mel


@pytest.mark.parametrize("samples", [513, 639, 640, 1000, 31_999, 32_000, 32_001, 100_257])
@pytest.mark.parametrize("settings", [LogMelSettings(), EFFICIENTAT_LOG_MEL], ids=["ours", "efficientat"])
def test_equals_log_mel_on_noise(samples: int, settings: LogMelSettings) -> None:
    """Within 0.006 dB: a band that happens to be quiet in one frame rounds first."""
    samples += bool(settings.preemphasis)  # which drops one
    waveform = 0.1 * torch.randn(3, samples, generator=torch.Generator().manual_seed(samples))
    log_mel = MatmulLogMel(settings)(waveform)
    torch.testing.assert_close(log_mel, LogMel(settings)(waveform), atol=2e-4, rtol=0)


@pytest.mark.parametrize("file", ["rooster.ogg", "speech_front_center.wav", "helicopter.ogg", "air_raid_siren.mp3"])
def test_is_as_exact_as_torchaudio_on_recordings(file: str) -> None:
    """Against float64: lossy recordings have bands 80 dB below the loudest, where float32 itself rounds.

    No more than three times LogMel's own error, which is 1e-2 at worst in single cells, and 1e-4 on average.
    """
    waveform = torch.from_numpy(read_audio(RECORDINGS / file))[None]
    exact = exact_log_mel(waveform)
    ours, theirs = ((compute(waveform) - exact).abs() for compute in (MatmulLogMel(), LogMel()))
    assert ours.max() < 3 * theirs.max() + 1e-5
    assert ours.mean() < 1e-4


@pytest.mark.parametrize("settings", [LogMelSettings(), EFFICIENTAT_LOG_MEL], ids=["ours", "efficientat"])
def test_silence_is_the_floor(settings: LogMelSettings) -> None:
    silence = torch.zeros(1, 1000)
    assert torch.equal(MatmulLogMel(settings)(silence), LogMel(settings)(silence))
