"""The embedded tagger's teacher as TorchScript: EfficientAT mn04_as, from its authors' code and weights (both MIT).

    git clone https://github.com/fschmid56/EfficientAT
    python scripts/open_sounds/export_teacher.py EfficientAT mn04_as_mAP_432.pt teacher.pt

teacher.pt maps waveforms, float32 (B, samples) at 32 kHz, to scores (B, 527) and the pooled embedding (B, 384). The
weights are an asset of the repository's release v0.0.1. On a CPU the log-mel is computed clip by clip: one clip's
spectrum stays in the cache.
"""

import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torchaudio.compliance.kaldi import get_mel_banks

HOP, WINDOW, N_FFT, BANDS = 320, 800, 1024, 128
F_MIN, F_MAX = 0.0, 15_000.0


class Network(nn.Module):
    """Log-mel (B, 1, 128, frames) -> scores (B, 527), embedding (B, 384)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.features, self.classifier = network.features, network.classifier

    def forward(self, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(log_mel)
        embedding = nn.functional.adaptive_avg_pool2d(features, (1, 1)).flatten(1)
        return self.classifier(features).sigmoid(), embedding


class Teacher(nn.Module):
    """Waveforms (B, samples) -> scores (B, 527), embedding (B, 384)."""

    window: Tensor
    basis: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.n_fft, self.hop, self.width = N_FFT, HOP, WINDOW  # TorchScript knows no module constants
        self.network = torch.jit.trace(Network(network).eval(), torch.randn(4, 1, BANDS, 256), check_trace=False)
        basis, _ = get_mel_banks(BANDS, N_FFT, 32_000, F_MIN, F_MAX, 100.0, -500.0, 1.0)
        self.register_buffer("window", torch.hann_window(WINDOW, periodic=False))
        self.register_buffer("basis", nn.functional.pad(basis, (0, 1)))

    def log_mel(self, waveform: Tensor) -> Tensor:
        emphasised = waveform[:, 1:] - 0.97 * waveform[:, :-1]
        spectrum = torch.view_as_real(
            torch.stft(emphasised, self.n_fft, self.hop, self.width, self.window, center=True, return_complex=True)
        )
        power = spectrum[..., 0].square() + spectrum[..., 1].square()
        return ((torch.matmul(self.basis, power) + 1e-5).log() + 4.5) / 5

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        if waveform.is_cuda:
            log_mel = self.log_mel(waveform)
        else:
            log_mel = torch.cat([self.log_mel(waveform[clip : clip + 1]) for clip in range(waveform.shape[0])])
        return self.network(log_mel.unsqueeze(1))


def main(repository: Path, weights: Path, target: Path) -> None:
    weights, target = weights.resolve(), target.resolve()
    os.chdir(repository)  # its code reads metadata/*.csv
    sys.path.insert(0, ".")
    from models.mn.model import get_model  # EfficientAT's

    network = get_model(width_mult=0.4)
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    torch.jit.script(Teacher(network.eval()).eval()).save(target)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
