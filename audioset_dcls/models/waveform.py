"""A tagger that takes waveforms: folded, with its own log-mel in front."""

from __future__ import annotations

from torch import Tensor, nn

from audioset_dcls.dcls import fold
from audioset_dcls.models.trunks import AudioTagger
from preprocessing.clips.layout import INT16_SCALE
from preprocessing.log_mel import LogMel


class WaveformTagger(nn.Module):
    """Waveforms, int16 or floats in [-1, 1], (B, samples) at 32 kHz -> logits (B, C) and embeddings (B, D), in float32.

    Args:
        model: is folded in place, and must be in eval mode for the embeddings and logits of `dcls-export`.
    """

    def __init__(self, model: AudioTagger) -> None:
        super().__init__()
        fold(model)
        self.model = model
        self.log_mel = LogMel(model.log_mel_settings)

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        if not waveform.is_floating_point():
            waveform = waveform.float() / INT16_SCALE
        features = self.model.forward_features(self.log_mel(waveform))
        logits, embedding = self.model.forward_head(features), self.model.forward_head(features, pre_logits=True)
        return logits.float(), embedding.float()
