"""What commands print of strangers' names, labels and messages cannot act on the terminal or pose as other lines."""

from __future__ import annotations

import ast
import csv
import io
import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from rich.console import Console

from audioset_dcls.evaluation.compare import Comparison
from audioset_dcls.evaluation.compare_report import markdown, print_comparison
from audioset_dcls.evaluation.report import csv_text
from audioset_dcls.evaluation.runs import Run
from audioset_dcls.tagging.writers import FORMATS
from audioset_dcls.tagging.writers.formats import View
from preprocessing.terminal import csv_cell, figure_text, json_text, printable
from tests.test_imports import ROOT, write_tagger

EVIL = "\x1b]0;owned\x07\x1b[31m[red]$x^\x9b2J\u202egnp.\r\n  0.99  Fake\t\u2028\x7f"
DANGEROUS = "".join(
    chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in ("Cc", "Zl", "Zp", "Cs")
)


def harmless(text: str) -> bool:
    """Whether nothing but line feeds and tabs is in it that a terminal would act on."""
    return not set(text) & (set(DANGEROUS) - {"\n", "\t"}) and "\u202e" not in text


def test_every_control_character_is_escaped() -> None:
    shown = printable(DANGEROUS)
    assert shown.isascii()
    assert not set(shown) & set(DANGEROUS)
    assert printable("Käuzchen 音 🐓 \u00a0\u3000 a\u200db \\n [x]") == "Käuzchen 音 🐓 \u00a0\u3000 a\u200db \\n [x]"
    assert printable("\udcff") == "\\udcff"
    whole = DANGEROUS.encode(errors="ignore").decode() + EVIL  # two halves side by side would be read as one character
    assert json.loads(json_text(json.dumps(whole, ensure_ascii=False))) == whole
    assert harmless(json_text(json.dumps(DANGEROUS, ensure_ascii=False)))
    assert figure_text("$\x1b") == r"\$\x1b"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])  # noqa: RUF001
def test_cells_are_no_formulas(start: str) -> None:
    cell = csv_cell(f"{start}1+cmd|' /C calc'!A0")
    assert isinstance(cell, str)
    assert cell.startswith("'")
    assert csv_cell(-1.5) == -1.5
    assert csv_cell("--PJHxphWEs") == "--PJHxphWEs"  # a clip of AudioSet
    assert csv_cell("a=b\n\tc") == "a=b\n\tc"
    assert harmless(str(csv_cell(EVIL)))


@pytest.mark.parametrize("name", [name for name, kind in FORMATS.items() if kind.render is not None])
@pytest.mark.parametrize("timeline", [False, True])
def test_every_format(name: str, timeline: bool) -> None:
    entry = {"label": EVIL, "score": 0.9, "mean": 0.8, "implied": False}
    event = {"start": 0.0, "end": 1.0, **entry}
    tagged = {"file": f"={EVIL}", "duration": 1.0, "tags": [entry], "events": [event], "best": entry}
    tagged |= {"path": f"/{EVIL}", "channel": None, "rate": 8000, "band": [0, 4000], "recorded": None}
    records = [tagged, {**tagged, "tags": [], "events": []}]
    text = "".join(FORMATS[name].text(iter(records), View(timeline)))
    assert harmless(text)
    if name in ("csv", "summary"):
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        column = {"csv": "file", "summary": "highest_file"}[name]
        assert [row[column][:2] for row in rows] == {"csv": ["'=", "'="], "summary": ["'="]}[name]
    elif name in (lines := {"table": 4, "audacity": 1, "raven": 2, "rttm": 1, "srt": 4, "vtt": 5}):
        assert len(text.splitlines()) == lines[name]


def tag(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from audioset_dcls.commands.tag import main; main()",
    ]
    return subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True, timeout=120)


def test_the_command_on_hostile_names_and_labels(tmp_path: Path) -> None:
    write_tagger(tmp_path / "tiny.onnx")
    model = onnx.load(tmp_path / "tiny.onnx")
    onnx.helper.set_model_props(model, {"labels": json.dumps([EVIL, "Dog", "Bark"]), "sample_rate": "32000"})
    onnx.save(model, tmp_path / "tiny.onnx")
    name = EVIL.replace("/", "") + ".wav"
    soundfile.write(tmp_path / "x.wav", np.zeros(3200), 32_000)
    (tmp_path / "x.wav").rename(tmp_path / name)
    (tmp_path / f"broken{name}").write_text("no sound")
    done = tag("--model", "tiny.onnx", ".", "missing\x1b[2J.wav", folder=tmp_path)
    assert done.returncode == 1
    assert harmless(done.stdout)
    assert harmless(done.stderr)
    header, *tags = done.stdout.splitlines()
    assert header.startswith(f"./{printable(name)}")
    assert len(tags) == 2  # Bark implies Dog
    assert len([line for line in done.stderr.splitlines() if " recordings, " not in line]) == 2
    done = tag("--model", "tiny.onnx", "--frob\x1b[2J\n", folder=tmp_path)
    assert done.returncode == 2
    assert harmless(done.stderr)


def test_experiments_with_hostile_names() -> None:
    name = f"[red]{EVIL}[/red]|[link=file:///etc/passwd]"
    runs = [Run(name, seed, {"mAP": 0.1 * seed, EVIL: 1.0}) for seed in (1, 2)] + [Run("plain", 1, {"mAP": 0.3})]
    comparison = Comparison(Path(), runs)
    file = io.StringIO()
    print_comparison(comparison, Console(file=file, width=300))
    assert printable(name) in file.getvalue()
    assert harmless(file.getvalue())
    text = markdown(comparison, comparison.differences(), [])
    assert harmless(text)
    assert len([line for line in text.splitlines() if line.startswith("|")]) == 4 + 3
    assert harmless(csv_text([{"experiment": name, EVIL: 1.0}]))


def test_one_module_prints() -> None:
    for path in [ROOT / "cli.py", *(ROOT / "audioset_dcls").rglob("*.py"), *(ROOT / "preprocessing").rglob("*.py")]:
        if path.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            where = f"{path.relative_to(ROOT)}:{node.lineno}"
            called = ast.unparse(node.func)
            assert called != "print", f"{where} prints; call preprocessing.terminal.show"
            if called == "SystemExit" and node.args:  # Python prints its argument
                text = isinstance(node.args[0], ast.JoinedStr)
                assert not text, f"{where} exits with a text that is not printable()"
