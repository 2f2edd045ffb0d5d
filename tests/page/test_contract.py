"""The JavaScript example of docs/api.md, as it stands there, against ONNX Runtime for Python."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from audioset_dcls.tagging.contract import labels_file
from audioset_dcls.tagging.session import OnnxModel
from audioset_dcls.tagging.tagger import embedded_tagger
from preprocessing.audio import read_audio
from tests.conftest import RECORDINGS, ROOT
from tests.page.script import node


@pytest.mark.slow
def test_the_example_tells_what_python_tells(node_modules: Path, tmp_path: Path) -> None:
    (example,) = re.findall(r"```js\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.DOTALL)
    (tmp_path / "node_modules").symlink_to(node_modules)
    (tmp_path / "example.mjs").write_text(example)
    for path in (embedded_tagger(), labels_file(embedded_tagger())):
        shutil.copy(path, tmp_path)
    model = OnnxModel(embedded_tagger())
    samples = read_audio(RECORDINGS / "dog_bark.ogg", model.sample_rate)
    (tmp_path / "clip.f32").write_bytes(samples.tobytes())
    done = subprocess.run([node(), "example.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = {label: float(score) for score, label in (line.split(" ", 1) for line in done.stdout.splitlines())}
    (scores,) = model.run(samples[None])
    best = sorted(zip(scores[0], model.labels, strict=True), reverse=True)[:5]
    # WebAssembly sums in another order
    assert told == pytest.approx({label: float(score) for score, label in best}, abs=2e-3)
