"""Speed from files to tensors: log-mel, decoding, HDF5 to batches, each beside what people use today, in one run.

    python benchmarks/loading.py [--part log_mel|decoding|hdf5] [--reference DCLS-Audio]

--reference is a checkout of K-H-Ismail/DCLS-Audio, whose own dataset then runs beside ours.

Each time is the best of several rounds in which the rivals take turns, so that a busy machine hurts all of them alike.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import librosa
import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchaudio.transforms import AmplitudeToDB, MelScale, Spectrogram

sys.path.insert(0, str(Path(__file__).parents[1]))

from preprocessing.audio import SAMPLE_RATE, read_audio
from preprocessing.clips.layout import INT16_SCALE, to_int16
from preprocessing.clips.writer import ClipWriter
from preprocessing.constants import F_MAX, F_MIN, HOP, MEAN, N_FFT, N_MELS, STD
from preprocessing.loading.datamodule import AudioSetDataModule
from preprocessing.log_mel import LogMel, pad_or_trim

RECORDINGS = Path(__file__).parents[1] / "tests" / "data" / "recordings"
CLIPS = 32
MINUTES = 5


def best_times(rivals: dict[str, Callable[[], object]], rounds: int = 4) -> dict[str, float]:
    """Least seconds of each over the rounds, after one to warm up."""
    best = dict.fromkeys(rivals, float("inf"))
    for turn in range(rounds + 1):
        for name, run in rivals.items():
            start = time.perf_counter()
            run()
            if turn:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def table(title: str, unit: str, amount: float, times: dict[str, float]) -> None:
    """One line per rival: amount / time, and how many times faster the first one is."""
    print(f"\n{title}\n{'':46}{unit:>20}{'the first is':>16}")
    first = next(iter(times.values()))
    for name, seconds in times.items():
        print(f"{name:46}{amount / seconds:20.1f}{seconds / first:15.2f}x")


def real_sound(seconds: int, rate: int) -> np.ndarray:
    """(samples, 2): the test recordings one after the other, again and again."""
    paths = sorted(path for path in RECORDINGS.iterdir() if path.suffix not in {".csv", ".md"})
    mono = np.concatenate([read_audio(path, rate) for path in paths])
    mono = np.tile(mono, seconds * rate // len(mono) + 1)[: seconds * rate]
    return np.stack([mono, 0.8 * np.roll(mono, 20)], axis=1)


def log_mel() -> None:
    """10 s clips -> (1, 128, 1001), on the CPU."""
    sound = real_sound(10 * CLIPS, SAMPLE_RATE)[:, 0]
    clips = torch.from_numpy(np.ascontiguousarray(sound)).view(CLIPS, -1)
    ours = LogMel()
    reference_steps = [
        Spectrogram(n_fft=N_FFT, hop_length=HOP, power=2),
        MelScale(n_mels=N_MELS, sample_rate=SAMPLE_RATE, f_min=F_MIN, f_max=F_MAX, n_stft=N_FFT // 2 + 1),
        AmplitudeToDB(),
        lambda x: (x - MEAN) / STD,
    ]

    def reference(clip: Tensor) -> Tensor:
        """DCLS-Audio's evaluation transform, applied to one clip in the data set."""
        x = pad_or_trim(clip, 10 * SAMPLE_RATE)[None]
        for step in reference_steps:
            x = step(x)
        return x

    def with_librosa(clip: Tensor) -> np.ndarray:
        mel = librosa.feature.melspectrogram(
            y=clip.numpy(), sr=SAMPLE_RATE, n_fft=N_FFT, hop_length=HOP, pad_mode="reflect", power=2,
            n_mels=N_MELS, fmin=F_MIN, fmax=F_MAX, htk=True, norm=None,
        )  # fmt: skip
        return (librosa.power_to_db(mel, amin=1e-10, top_db=None) - MEAN) / STD

    for threads in (1, os.cpu_count() or 1):
        torch.set_num_threads(threads)
        times = best_times(
            {
                "LogMel, batches of 8": lambda: [ours(batch) for batch in clips.split(8)],
                "LogMel, clip by clip": lambda: [ours(clip) for clip in clips],
                "reference's transform, clip by clip": lambda: [reference(clip) for clip in clips],
                "librosa, clip by clip": lambda: [with_librosa(clip) for clip in clips],
            }
        )
        table(f"Log-mel of 10 s clips, torch with {threads} thread(s)", "clips/s", CLIPS, times)


def decoding() -> None:
    """Stereo files at 44.1 kHz -> mono at 32 kHz, one core."""
    rate = 44_100
    sound = real_sound(60 * MINUTES, rate)
    for container, subtype in (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", None), ("OGG", "VORBIS")):
        file = io.BytesIO()
        with soundfile.SoundFile(file, "w", rate, 2, format=container, subtype=subtype) as out:
            for second in np.split(sound, 60 * MINUTES):  # libsndfile's Vorbis encoder overflows on long blocks
                out.write(second)
        content = file.getvalue()
        times = best_times(
            {
                "read_audio": lambda content=content: read_audio(content),
                "librosa.load": lambda content=content: librosa.load(io.BytesIO(content), sr=SAMPLE_RATE),
            },
            rounds=3,
        )
        table(f"Decode and resample, {container}", "hours of sound/min", MINUTES, times)


def hdf5(checkout: Path | None) -> None:
    """HDF5 file in the page cache -> batches of 32, one core, no workers.

    DCLS-Audio's dataset makes the log-mel of each clip where it reads it; ours hands over int16 and leaves the log-mel
    to the training device, so it is timed with LogMel on the same core too.
    """
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    sound = real_sound(10 * CLIPS * 4, SAMPLE_RATE)[:, 0].reshape(CLIPS * 4, -1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "eval.h5")
        with ClipWriter(path) as writer:
            names = [f"clip {number}" for number in range(len(sound))]
            writer.append(names, to_int16(sound), generator.random((len(sound), 527)) < 0.01)
            writer.finish()
        Path(folder, "full_unbal_bal_train_wav.h5").symlink_to(path)  # the name that the reference's train set has
        ours = AudioSetDataModule(path, batch_size=CLIPS, num_workers=0).train_dataloader()
        mel = LogMel()
        rivals: dict[str, Callable[[], object]] = {
            "int16 batches": lambda: [batch["waveform"].shape for batch in ours],
            "int16 batches, then LogMel": lambda: [mel(batch["waveform"] / INT16_SCALE).shape for batch in ours],
        }
        if checkout is not None:
            for name, is_train in (("evaluation", False), ("training", True)):
                theirs = DataLoader(reference_dataset(checkout, folder, is_train), CLIPS, shuffle=is_train)
                rivals[f"DCLS-Audio, {name} transform"] = lambda theirs=theirs: [x.shape for x, _ in theirs]
        table("HDF5 to batches of 10 s clips, one core", "clips/s", len(sound), best_times(rivals, rounds=2))


def reference_dataset(checkout: Path, folder: str, is_train: bool) -> Dataset[tuple[Tensor, Tensor]]:
    """DCLS-Audio's own dataset, with the settings of its training recipe."""
    sys.path.insert(0, str(checkout))
    with contextlib.redirect_stdout(None):
        import datasets  # the checkout's module

        recipe = SimpleNamespace(data_set="AUDIOSET", data_path=f"{folder}/", reprob=0.25, remode="pixel", recount=1)
        recipe.resplit = False
        return datasets.build_dataset(is_train, recipe)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=("log_mel", "decoding", "hdf5"), help="default: all")
    parser.add_argument("--reference", type=Path, metavar="DCLS-Audio")
    options = parser.parse_args()
    parts = {"log_mel": log_mel, "decoding": decoding, "hdf5": lambda: hdf5(options.reference)}
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, librosa {librosa.__version__}"
    print(f"{machine}, {versions}: python {' '.join(sys.argv)}")
    for part in options.part or parts:
        parts[part]()


if __name__ == "__main__":
    main()
