"""dcls-tag against EfficientAT's inference.py and `import torch, timm`; hours of audio a minute; where time goes.

    python benchmarks/tag.py [--model tagger.onnx] [--efficientat CHECKOUT] [--part cold|log_mel|shares|folder|long]

EfficientAT is a checkout of github.com/fschmid56/EfficientAT outside this repository; its weights are random here (they
change no time), its own downloads are left out. Every ratio comes from one run: the candidates take turns, and the best
of the rounds counts, so that other work on the machine hits all alike.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # not this folder: its scripts are called like the packages they measure
RATE = 32_000
# inference.py with random weights: the checkout's own model, log-mel and main, without the download
EFFICIENTAT = """
import sys; sys.path.insert(0, '.')
import inference, models.mn.model as mn
inference.get_mobilenet = lambda pretrained_name=None, **settings: mn.get_model(**settings)
sys.argv = ['inference.py', '--model_name', 'mn04_as', '--audio_path', sys.argv[1]]
main = open('inference.py').read().split('if __name__')[1].split(':', 1)[1].replace('\\n    ', '\\n')
exec(compile(main, 'main', 'exec'), vars(inference))
"""


def measure(command: list[str], cwd: Path = ROOT) -> tuple[float, float]:
    """Wall seconds and peak memory in MB of a process started anew."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=cwd, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command}: {process.stderr.read().decode()[-2000:]}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def cold(model: Path, efficientat: Path | None, clip: Path, rounds: int = 3) -> None:
    candidates: dict[str, tuple[list[str], Path]] = {
        "dcls-tag clip.wav": ([*tag_command(model), str(clip)], ROOT),
        "import torch, timm": ([sys.executable, "-c", "import torch, timm"], ROOT),
    }
    if efficientat is not None:
        candidates["EfficientAT inference.py"] = (
            [sys.executable, "-Wignore", "-c", EFFICIENTAT, str(clip)],
            efficientat,
        )
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, (command, cwd) in candidates.items():
            runs[name].append(measure(command, cwd))
    ours = [min(values) for values in zip(*runs["dcls-tag clip.wav"], strict=True)]
    for name, values in runs.items():
        seconds, memory = (min(column) for column in zip(*values, strict=True))
        print(f"{name:<26} {seconds:6.2f} s  {memory:6.0f} MB   {seconds / ours[0]:5.1f}x  {memory / ours[1]:5.1f}x")


def throughput(model: Path, inputs: list[str], hours: float) -> None:
    """The command as it is used, and the share of its core seconds in decoding, log-mel and network, each run alone."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, memory = measure([*tag_command(model), *inputs, "--format", "jsonl"])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    cores = busy / seconds / len(os.sched_getaffinity(0))
    rate = hours / seconds * 60
    print(f"{hours:.2f} h in {seconds:.1f} s: {rate:.1f} h a minute, {memory:.0f} MB, cores {cores:.0%} busy")


def shares(model: Path, clip: Path) -> None:
    from audioset_dcls.tagging.session import OnnxModel
    from preprocessing.audio import read_audio

    session = OnnxModel(model)
    waveform = read_audio(clip)[None]
    decode = best(lambda: read_audio(clip))
    front = _log_mel_alone(model)
    log_mel = best(lambda: front.run(["log_mel"], {"waveform": waveform}))
    whole = best(lambda: session.run(waveform))
    for name, seconds in (("decode", decode), ("log-mel", log_mel), ("network", whole - log_mel)):
        print(f"{name:<8} {seconds * 1e3:6.1f} ms a 10 s clip, {seconds / (decode + whole):.0%}")
    for batch in (1, 2, 4, 8):
        stacked = np.repeat(waveform, batch, 0)
        print(f"batch {batch}: {best(lambda stacked=stacked: session.run(stacked)) / batch * 1e3:.1f} ms a clip")


def log_mel_ways(model: Path, clip: Path) -> None:
    """In the graph, as NumPy's FFT beside it, and as torchaudio's."""
    import torch

    from audioset_dcls.tagging.session import OnnxModel
    from preprocessing.audio import read_audio
    from preprocessing.log_mel import LogMel

    torch.set_num_threads(1)
    session, waveform = _log_mel_alone(model), read_audio(clip)[None]
    reference = LogMel(OnnxModel(model).log_mel_settings)
    window = np.hanning(1025)[:-1].astype(np.float32)
    filters = reference.mel_scale.fb.numpy()

    def beside() -> np.ndarray:
        padded = np.pad(waveform, ((0, 0), (512, 512)), mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, 1024, axis=1)[:, ::320] * window
        spectrum = np.fft.rfft(frames, axis=-1)
        return 10 * np.log10(np.maximum((spectrum.real**2 + spectrum.imag**2) @ filters, 1e-10))

    with torch.no_grad():
        ways: dict[str, Callable[[], object]] = {
            "in the graph": lambda: session.run(["log_mel"], {"waveform": waveform}),
            "numpy beside it": beside,
            "torchaudio": lambda: reference(torch.from_numpy(waveform)),
        }
        for name, way in ways.items():
            print(f"log-mel {name:<16} {best(way) * 1e3:6.1f} ms a 10 s clip, one core")


def _log_mel_alone(model: Path) -> Any:
    """A session on the graph's front end: ONNX Runtime computes the rest too, whatever output is asked for."""
    import onnx

    from audioset_dcls.tagging.session import open_session

    with tempfile.TemporaryDirectory() as folder:
        onnx.utils.extract_model(str(model), f"{folder}/log_mel.onnx", ["waveform"], ["log_mel"])
        return open_session(f"{folder}/log_mel.onnx", ["CPUExecutionProvider"])


def best(work: Callable[[], object], rounds: int = 7) -> float:
    work()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def tag_command(model: Path) -> list[str]:
    return [sys.executable, "-c", "from audioset_dcls.commands.tag import main; main()", "--model", str(model)]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def write_noise(path: Path, seconds: float, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for _ in range(round(seconds / 10)):
            file.write(0.1 * rng.standard_normal(10 * RATE))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="default: the embedded tagger")
    parser.add_argument("--efficientat", type=Path, help="a checkout of EfficientAT")
    parser.add_argument("--part", action="append", choices=("cold", "log_mel", "shares", "folder", "long"))
    arguments = parser.parse_args()
    from audioset_dcls.tagging.tagger import embedded_tagger

    model = (arguments.model or embedded_tagger()).resolve()
    parts = arguments.part or ["cold", "log_mel", "shares", "folder", "long"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = write_noise(folder / "clip.wav", 10)
        if "cold" in parts:
            cold(model, arguments.efficientat and arguments.efficientat.resolve(), clip)
        if "folder" in parts:
            (folder / "200").mkdir()
            for number in range(200):
                write_noise(folder / "200" / f"{number:03}.flac", 10, number)
            throughput(model, [str(folder / "200")], 200 * 10 / 3600)
        if "long" in parts:
            throughput(model, [str(write_noise(folder / "hour.flac", 3600))], 1)
        # last: they import torch, and a child's peak memory counts its parent's at the fork
        if "log_mel" in parts:
            log_mel_ways(model, clip)
        if "shares" in parts:
            shares(model, clip)


if __name__ == "__main__":
    main()
