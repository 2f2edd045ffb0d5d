"""The command line: usage errors, help, models, and what is not imported."""

from __future__ import annotations

import csv
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from audioset_dcls import __version__
from audioset_dcls.commands import tag
from tests.conftest import RECORDINGS, Here, environment


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name recordings"),
        (["x.wav", "--format", "xml"], "'xml' is unknown; choose from table,json"),
        (["x.wav", "--clips", "c", "--clips-per-class", "0"], "clips-per-class must be"),
        (["x.wav", "--format", "json,csv"], "add -o DIR"),
        (["x.wav", "--format", "parquet"], "add -o DIR"),
        (["x.wav", "--embeddings"], "add -o DIR"),
        (["x.wav", "--separate"], "add -o DIR"),
        (["x.wav", "y.wav", "--format", "audacity"], "add -o DIR"),
        (["x.wav", "--window", "0"], "window must be"),
        (["x.wav", "--window", "5", "--hop", "6"], "hop must be"),
        (["x.wav", "--threshold", "2"], "threshold must be"),
        (["x.wav", "--top", "0"], "top must be"),
        (["x.wav", "--top", "many"], "invalid int"),
        (["x.wav", "--jobs", "0"], "jobs must be"),
        (["x.wav", "--channel", "middle"], "channel must be mix, left, right or a number"),
        (["x.wav", "--device", "tpu"], "invalid choice"),
        (["x.wav", "--device", "cuda"], "no CUDA"),
        (["x.wav", "--labels", "missing.txt"], "missing.txt"),
        (["x.wav", "--model", "missing.onnx"], "missing.onnx: no such file"),
        (["x.wav", "--model", "convnext_dclz"], "did you mean 'convnext_dcls'"),
        (["x.wav", "--frobnicate"], "unrecognized arguments"),
    ],
)
def test_usage_errors(arguments: list[str], message: str, tag_here: Here) -> None:
    status, out, err = tag_here(*arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_labels_that_are_none(tmp_path: Path, tag_here: Here) -> None:
    for content, message in (
        ("Dogg\n", "did you mean 'Dog'"),
        ("# none\n", "holds no labels"),
        (b"\xff\xfe\xfa", "cannot be read"),
    ):
        path = tmp_path / "labels.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        status, _, err = tag_here("x.wav", "--labels", path)
        assert status == 2
        assert message in err


def test_help_shows_every_option_and_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["dcls-tag", "--help"])
    with pytest.raises(SystemExit) as exit_:
        tag.main()
    assert exit_.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in (
        "top",
        "threshold",
        "model",
        "window",
        "hop",
        "timeline",
        "format",
        "output",
        "labels",
        "embeddings",
        "jobs",
        "channel",
    ):
        assert f"--{option}" in text
    for option in ("thresholds", "list-labels", "all-levels", "version", "clips", "clips-per-class"):
        assert f"--{option}" in text
    for option in ("device", "resume", "plot", "list-models", "quiet", "separate"):
        assert f"--{option}" in text
    for default in (
        "5",
        "0.2",
        "as the tagger was trained, the embedded one on 5, others on 10",
        "half the window; of the embedded tagger, all of it",
        "table",
        "cpu",
        "--resume",
        "the embedded one",
        "one a core",
    ):
        assert f"(default: {default})" in text


def test_neither_torch_nor_what_a_clip_does_not_need_is_imported(tagger_file: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from audioset_dcls.commands.tag import main\n"
        f"sys.argv = ['dcls-tag', '--model', {str(tagger_file)!r}, {str(RECORDINGS / 'speech_front_center.wav')!r}]\n"
        "try: main()\n"
        "except SystemExit as error: assert not error.code\n"
        "heavy = {'torch', 'timm', 'librosa', 'scipy', 'matplotlib', 'pyarrow', 'av', 'onnx', 'h5py', 'rich'}\n"
        "print(*sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""
    assert "speech_front_center.wav" in done.stdout


def test_without_an_embedded_tagger(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("audioset_dcls.tagging.tagger.data_folder", lambda name: tmp_path)
    monkeypatch.setattr(sys, "argv", ["dcls-tag", "x.wav"])
    with pytest.raises(SystemExit) as exit_:
        tag.main()
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--model" in line
    assert "dcls-export" in line


def test_list_labels(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The embedded tagger's; it masks none."""
    monkeypatch.setattr(sys, "argv", ["dcls-tag", "--list-labels"])
    with pytest.raises(SystemExit) as left:
        tag.main()
    assert left.value.code == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["index"] for row in rows] == [str(i) for i in range(527)]
    assert {"index": "105", "mid": "/m/07qdb04", "name": "Quack", "parents": "Duck", "heard": "yes"} in rows


def test_version(tag_here: Here) -> None:
    assert tag_here("--version") == (0, f"dcls-tag {__version__}\n", "")


@pytest.fixture
def export_here(command_here: Here) -> Here:
    return partial(command_here, "dcls-export")


def test_export(checkpoint: Path, tmp_path: Path, export_here: Here, tag_here: Here) -> None:
    target = tmp_path / "half.onnx"
    status, out, err = export_here(checkpoint, target, "--precision", "float16", "--clips", RECORDINGS / "cow.ogg")
    assert status == 0, err
    assert "half.onnx: " in out
    assert "difference to float32 over 1 windows" in out
    assert tag_here(RECORDINGS / "cow.ogg", "--model", target)[0] == 0


def test_export_failures(checkpoint: Path, tmp_path: Path, export_here: Here) -> None:
    (tmp_path / "text.ckpt").write_text("hello")
    for arguments, message in (
        ((tmp_path / "text.ckpt", tmp_path / "a.onnx"), "text.ckpt"),
        ((tmp_path / "missing.ckpt", tmp_path / "a.onnx"), "missing.ckpt: no such file"),
        ((checkpoint, tmp_path / "a.onnx", "--clips", tmp_path / "missing.wav"), "missing.wav: no such file"),
    ):
        status, _, err = export_here(*arguments)
        assert status == 1
        (line,) = err.splitlines()
        assert line.startswith("dcls-export: ")
        assert message in line
    assert not (tmp_path / "a.onnx").exists()
