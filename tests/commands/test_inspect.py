"""dcls-inspect's command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from audioset_dcls.commands.inspect import pictures_folder
from tests.conftest import environment


def test_pictures_lie_beside_their_checkpoint(tmp_path: Path) -> None:
    """Else the second run's best-pictures would be written over the first one's."""
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "best.ckpt").touch()
        assert pictures_folder(tmp_path / run / "best.ckpt") == tmp_path / run / "best-pictures"
    assert pictures_folder(Path("convnext_dcls")) == Path("convnext_dcls-pictures")


def test_a_missing_checkpoint_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from audioset_dcls.commands.inspect import main; main()", "runs/a/best.ckpt"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
    (line,) = done.stderr.splitlines()
    assert line.startswith("dcls-inspect: runs/a/best.ckpt: no such file")
    assert done.returncode == 1
