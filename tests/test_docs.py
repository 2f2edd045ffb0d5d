"""The examples in the documentation and in docstrings run, and print what they say."""

from __future__ import annotations

import doctest
import importlib
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS | doctest.REPORT_NDIFF
PAGES = sorted(path for path in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"] if ">>> " in path.read_text())
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("audioset_dcls", "preprocessing")
    for path in (ROOT / package).rglob("*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_examples_on_a_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "tests" / "data" / "recordings" / "dog_bark.ogg", tmp_path)
    monkeypatch.chdir(tmp_path)  # where the examples may write
    # what a fence closes with is no output
    text = re.sub(r"^```.*$", "", page.read_text(), flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    results = runner.run(test)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    assert doctest.testmod(module, optionflags=FLAGS).failed == 0


@pytest.mark.parametrize("package", ["audioset_dcls", "audioset_dcls.dcls", "audioset_dcls.models", "preprocessing"])
def test_public_names_are_documented(package: str) -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    module = importlib.import_module(package)
    for name in module.__all__:
        public = getattr(module, name)
        assert f"`{name}`" in text, f"{name} is not on the page"
        assert not callable(public) or public.__doc__, f"{name} has no docstring"


@pytest.mark.parametrize(
    "page", sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]), ids=lambda path: path.name
)
def test_links_and_pictures_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_pictures_are_small() -> None:
    for path in (ROOT / "docs" / "pictures").rglob("*.*"):
        assert path.stat().st_size < 400_000, path.name  # every clone carries them
