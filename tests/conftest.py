"""A tagger that hears the test recordings: random DCLS features with a classifier solved on them, exported once."""

from __future__ import annotations

import atexit
import copy
import csv
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from filelock import FileLock

from audioset_dcls.tagging.session import OnnxModel
from audioset_dcls.tagging.tagger import open_model
from preprocessing.audio import SAMPLE_RATE, read_audio
from preprocessing.decoding.process import DecoderPool
from tests.servers import Server

if TYPE_CHECKING:
    import torch
    from playwright.sync_api import Playwright

# A shell starts background jobs with SIGINT ignored, and what they start inherits that: no Ctrl-C would arrive.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Triton's kernels run in its interpreter, on the CPU; it has to be told before triton is imported.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

ROOT = Path(__file__).parents[1]
RECORDINGS = ROOT / "tests" / "data" / "recordings"
Here = Callable[..., tuple[int, str, str]]  # arguments -> exit status, stdout, stderr
MODULES = {"dcls-eval": "evaluate"}  # of commands that are called otherwise
COMMAND = [sys.executable, "-c", "from audioset_dcls.commands.tag import main; main()"]


def first_labels() -> dict[str, str]:
    """Recording -> the first of its right answers."""
    with (RECORDINGS / "expected.csv").open(encoding="utf-8", newline="") as file:
        return {row["file"]: row["labels"].split(";")[0] for row in csv.DictReader(file)}


def exact_log_mel(waveform: torch.Tensor) -> torch.Tensor:
    """LogMel's (B, 1, 128, frames) computed in float64."""
    import torch

    from preprocessing.log_mel import LogMel

    power = LogMel().spectrogram.double()(waveform.double()).abs() ** 2
    decibels = 10 * torch.log10(LogMel().mel_scale.double()(power).clamp(min=1e-10))
    return ((decibels + 18.2696) / 30.5735)[:, None]


@pytest.fixture(scope="session")
def checkpoint(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    return made_once("tagger.ckpt", _write_checkpoint)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """made_once(name, make): a file that `make(path)` writes, once for all processes of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made_once"
    folder.mkdir(exist_ok=True)

    def run(name: str, make: Callable[[Path], object]) -> Path:
        path = folder / name
        with FileLock(folder / f"{name}.lock"):
            if not path.exists():
                make(path)
        return path

    return run


def _write_checkpoint(path: Path) -> None:
    import torch

    from audioset_dcls.dcls import fold
    from audioset_dcls.models.checkpoint import save_checkpoint
    from audioset_dcls.models.trunks import create_model
    from preprocessing.labels import labels
    from preprocessing.log_mel import LogMel, pad_or_trim

    torch.set_num_threads(1)  # small products: a second thread costs more in waiting than it gives
    torch.manual_seed(0)
    names = [label.display_name for label in labels()]
    model = create_model("convnext_atto").eval()
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(10 * SAMPLE_RATE).astype(np.float32)
    waveforms, classes = [np.zeros_like(noise), 0.1 * noise, 0.001 * noise], [-1, -1, -1]
    for file, label in first_labels().items():
        waveform = read_audio(RECORDINGS / file)[: 5 * SAMPLE_RATE]
        # faint noise and the few milliseconds that codecs put in front
        variants = [
            np.pad(waveform + level * rng.standard_normal(len(waveform)), (lead, 0))
            for level in (0, 0.005)
            for lead in (0, 1024, 2600)
        ]
        long = pad_or_trim(waveform, 10 * SAMPLE_RATE)
        variants += [
            np.roll(long, shift * SAMPLE_RATE) for shift in (range(0, 10, 2) if file == "rooster.ogg" else (4,))
        ]
        waveforms += [variant.astype(np.float32) for variant in variants]
        classes += [names.index(label)] * len(variants)
    with torch.no_grad():
        folded = fold(copy.deepcopy(model))
        embeddings = torch.cat([folded.embed(LogMel()(torch.from_numpy(waveform)[None])) for waveform in waveforms])
        targets = torch.full((len(classes), len(names)), -4.0)
        for row, target in enumerate(classes):
            if target >= 0:
                targets[row, target] = 4.0
        mean = embeddings.mean(0)
        centred = (embeddings - mean).double()
        # least squares with little damping, in the space of the samples: there are fewer of them than features
        gram = centred @ centred.T
        damping = 1e-2 * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
        weight = (torch.linalg.solve(gram + damping, (targets + 4.0).double()).T @ centred).float()
        model.trunk.head.fc.weight.copy_(weight)
        model.trunk.head.fc.bias.copy_(-4.0 - weight @ mean)
    save_checkpoint(path, model, names, {"license": "MIT", "scores": {"mAP": 0.5}, "threshold": 0.2})


@pytest.fixture(scope="session")
def tagger_file(checkpoint: Path, made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    def make(path: Path) -> None:
        from audioset_dcls.export.onnx import export
        from audioset_dcls.models.checkpoint import load_checkpoint

        export(load_checkpoint(checkpoint), path)

    return made_once("tagger.onnx", make)


@pytest.fixture(scope="session")
def tagger(tagger_file: Path):  # type: ignore[no-untyped-def]
    from audioset_dcls.tagging.tagger import Tagger

    return Tagger(tagger_file, jobs=2)


@pytest.fixture
def dcls_tag(tagger_file: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the real command, in `tmp_path`, with the session's tagger."""

    def run(*arguments: str | Path, **kwargs: object) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, "--model", str(tagger_file), *map(str, arguments)]
        settings = {
            "cwd": tmp_path,
            "env": environment(),
            "capture_output": True,
            "text": True,
            "timeout": 120,
        } | kwargs
        return subprocess.run(command, **settings)  # type: ignore[call-overload,no-any-return]

    return run


@pytest.fixture
def command_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """A command in this process: command_here("dcls-tag", *arguments) -> (exit status, stdout, stderr)."""

    def run(name: str, *arguments: object) -> tuple[int, str, str]:
        main = import_module(f"audioset_dcls.commands.{MODULES.get(name, name.removeprefix('dcls-'))}").main
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as end:
            if isinstance(end.code, str):  # Python prints it and ends with 1
                print(end.code, file=sys.stderr)
            status = 1 if isinstance(end.code, str) else end.code or 0
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def tag_here(tagger_file: Path, monkeypatch: pytest.MonkeyPatch, command_here: Here) -> Here:
    """dcls-tag in this process. The model and the decoders start once a session."""
    monkeypatch.setattr("audioset_dcls.tagging.tagger.open_model", _open_once)
    monkeypatch.setattr("preprocessing.decoding.process.DecoderPool", lambda started: nullcontext(_decoders()))
    return partial(command_here, "dcls-tag", "--model", tagger_file)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A running server; downloads do not wait between attempts, and the cache is in `tmp_path / "cache"`."""
    monkeypatch.setattr("audioset_dcls.models.download._PAUSE", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@cache
def _open_once(model: str, device: str) -> OnnxModel:
    return open_model(model, device)


@cache
def _decoders() -> DecoderPool:
    pool = DecoderPool(2)
    atexit.register(pool.close)
    return pool


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def write_tones(folder: Path, names: Iterable[str], seconds: float = 1.0) -> list[Path]:
    """Short WAV files, each a tone of its own."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    paths = []
    for number, name in enumerate(names):
        paths.append(folder / name)
        soundfile.write(paths[-1], 0.3 * np.sin(2 * np.pi * (200 + 50 * number) * time), SAMPLE_RATE)
    return paths


def chromium() -> str:
    """Chromium, or the test is skipped."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("Chromium is not installed; the page's tests need it: apt-get install chromium")
    return path


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    """One for all tests of a process: a second one would find the first one's event loop."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        yield started
