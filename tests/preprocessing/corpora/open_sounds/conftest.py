import os
import sys
from pathlib import Path

import pytest

from preprocessing.corpora.open_sounds import prepare
from preprocessing.corpora.open_sounds.lists import Package, load_packages
from tests.preprocessing.corpora.open_sounds.corpus import Corpus, make_corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return make_corpus(tmp_path)


@pytest.fixture
def no_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs of the synthetic part are not installed."""
    monkeypatch.setattr(prepare, "missing_tools", lambda: ["flite"])


@pytest.fixture
def archive(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Package], Path]:
    """An `apt-get` that serves the .debs of a folder as the real one does: `download NAME=VERSION` into the cwd."""
    data, debs = corpus.data, corpus.debs
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "apt-get").write_text(
        f"""#!{sys.executable}
import shutil, sys
from pathlib import Path
name, _, version = sys.argv[-1].partition("=")
found = list(Path({str(debs)!r}).glob(f"{{name}}_{{version or '*'}}_all.deb"))
if not found:
    sys.exit(f"E: Unable to locate {{name}} {{version}}")
shutil.copy(found[0], ".")
"""
    )
    (programs / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return {package.name: package for package in load_packages(data)}, debs
