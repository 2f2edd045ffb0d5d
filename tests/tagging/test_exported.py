"""Exports in the cache: made once for a checkpoint's file, found again without torch, made anew when it changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from audioset_dcls.models import create_model, save_checkpoint
from audioset_dcls.models.hub import published_checkpoint
from audioset_dcls.tagging import exported as module
from audioset_dcls.tagging.exported import exported, forget
from audioset_dcls.tagging.session import ModelError, OnnxModel
from tests.conftest import RECORDINGS, environment
from tests.models import stand_ins

NAME = "efficientat_dymn04"  # whose checksum is not known here, so that a stand-in can lie in its place


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "audioset_dcls"


def write_checkpoint(path: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    save_checkpoint(path, create_model("test_convnext", dcls=False, num_classes=2), ["yes", "no"])
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "my.ckpt")


def heavy_modules(model: str, folder: Path) -> set[str]:
    """Of those that a start should do without, the modules that `dcls-tag --model` has loaded at its end."""
    code = (
        "import sys; from audioset_dcls.commands.tag import main\n"
        f"sys.argv = ['dcls-tag', '--model', {model!r}, {str(RECORDINGS / 'cow.ogg')!r}]\n"
        "try: main()\n"
        "except SystemExit as error: assert not error.code\n"
        "print(*sorted({'torch', 'timm', 'torchvision', 'onnx', 'rich'} & set(sys.modules)), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=True)
    assert "cow.ogg" in done.stdout
    return set(done.stderr.split())


def test_the_second_start_needs_no_torch(checkpoint: Path, tmp_path: Path) -> None:
    first = exported(checkpoint)
    assert heavy_modules("my.ckpt", tmp_path) == set()  # the same file, named from its folder
    assert exported(checkpoint) == first


@pytest.mark.slow
def test_the_second_start_of_a_published_tagger_needs_no_torch(tmp_path: Path) -> None:
    path = published_checkpoint(NAME).path
    path.parent.mkdir(parents=True)
    torch.save(stand_ins.efficientat_state_dict("dymn04_as"), path)
    first = exported(NAME)
    assert heavy_modules(NAME, tmp_path) == set()
    assert exported(NAME) == first


def test_a_changed_checkpoint_is_exported_again(checkpoint: Path) -> None:
    first = exported(checkpoint)
    size = checkpoint.stat().st_size
    write_checkpoint(checkpoint, seed=1)
    os.utime(checkpoint, ns=(1, 1))  # however fast the two were written
    assert checkpoint.stat().st_size == size
    second = exported(checkpoint)
    assert second != first
    assert OnnxModel(second).labels == ("yes", "no")


@pytest.mark.parametrize("changed", ["__version__", "FORMAT"])
def test_other_code_exports_again(changed: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported(checkpoint)
    monkeypatch.setattr(module, changed, "other")
    assert module._noted(checkpoint) is None


def test_a_broken_note_is_ignored(checkpoint: Path, cache: Path, tmp_path: Path) -> None:
    """Also one that names something else than an export; the next start writes it anew."""
    first = exported(checkpoint)
    (note,) = (path for path in (cache / "exported").glob("*.json") if not path.name.endswith(".labels.json"))
    good = json.loads(note.read_text())
    (tmp_path / "evil.onnx").write_bytes(b"")
    names = ["../../evil.onnx", "/tmp/evil.onnx", "0123456789abcdef.onnx", None, 3, ["x"]]
    others = [json.dumps(good | {"onnx": name}).encode() for name in names]
    for content in (b"", b"{", b"[]", b"\xff", b'{"of": 1}', b"[" * 100_000, *others):
        note.write_bytes(content)
        assert module._noted(checkpoint) is None
    assert exported(checkpoint) == first
    assert module._noted(checkpoint) == first


def test_without_the_list_of_names_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Path:
        raise FileNotFoundError(f"audioset_dcls: the folder {name!r} is missing; install the package again")

    monkeypatch.setattr("audioset_dcls.models.hub.data_folder", missing)
    with pytest.raises(ModelError, match="the folder 'checkpoints' is missing"):
        exported(NAME)


def test_what_is_forgotten_is_gone(checkpoint: Path, cache: Path) -> None:
    forget(checkpoint)  # nothing there
    exported(checkpoint)
    forget(checkpoint)
    assert list((cache / "exported").iterdir()) == []
