"""dcls-inspect's command line."""

from __future__ import annotations

from pathlib import Path

from audioset_dcls.commands.inspect import pictures_folder
from tests.conftest import Here


def test_pictures_lie_beside_their_checkpoint(tmp_path: Path) -> None:
    """Else the second run's best-pictures would be written over the first one's."""
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "best.ckpt").touch()
        assert pictures_folder(tmp_path / run / "best.ckpt") == tmp_path / run / "best-pictures"
    assert pictures_folder(Path("convnext_dcls")) == Path("convnext_dcls-pictures")


def test_a_missing_checkpoint_is_one_line(command_here: Here) -> None:
    status, _, err = command_here("dcls-inspect", "runs/a/best.ckpt")
    (line,) = err.splitlines()
    assert line.startswith("dcls-inspect: runs/a/best.ckpt: no such file")
    assert status == 1
