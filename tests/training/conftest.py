"""Fixtures: a small set of clips, the settings of a small run on it, the command dcls-train."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.small_runs import SECONDS, write_clips

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 clips of six classes."""
    return write_clips(tmp_path_factory.mktemp("clips") / "clips.h5", 24, seed=0)


@pytest.fixture(scope="session")
def small(clips: Path) -> list[str]:
    """Overrides for a run of seconds on `clips`: 3 epochs of 3 steps of 8 clips, a step is 2 batches of 4."""
    return [
        "model=convnext_atto",
        "+model={depths:[1,1,1,1],dims:[16,32,64,128]}",
        "model.kernel_count=5",
        "model.dilated_kernel_size=7",
        "model.drop_path_rate=0.2",
        "trainer=cpu",
        f"data.train=[{clips}]",
        f"data.val={clips}",
        f"data.clip_seconds={SECONDS}",
        "data.batch_size=4",
        "data.num_workers=0",
        "batch_size=8",
        "epochs=3",
        "warmup_epochs=1",
        "log_every_n_steps=1",
        "save_every_n_steps=1",
        "callbacks=average",
        "callbacks.average.decay=0.9",
        "name=small",
    ]


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts dcls-train in the test's folder as a user would, on one thread, so that it shares the machine well.

    before: Python statements to run first.
    """

    def start(*arguments: str, before: str = "", **options: Any) -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        script = tmp_path / "dcls-train"
        script.write_text(f"{before}\nfrom audioset_dcls.commands.train import main\n\nmain()\n")
        return subprocess.Popen(
            [sys.executable, str(script), *arguments],
            cwd=tmp_path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **options,
        )

    return start


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Small batches gain nothing from more threads, and lose tenfold where other processes want the cores."""
    torch.set_num_threads(1)
