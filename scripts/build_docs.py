"""The documentation as a site: python scripts/build_docs.py, or `make docs`; build/docs/index.html is its first page.

The pages keep their places in the repository, so that their links hold on the site as they do in a checkout. The
reference is made from the docstrings of what each room's `__all__` names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "build" / "docs_source"
PAGES = (
    *("*.md", "CITATION.cff", "LICENSE", "docs/*.md", "docs/pictures/*.png", "checkpoints/README.md"),
    *("examples/*.py", "examples/*.yaml"),
    *("studies/*/*.md", "studies/open_sounds/pictures/*.png", "studies/open_sounds/results/*"),
)
ROOMS = (
    *("audioset_dcls", "audioset_dcls.tagging", "audioset_dcls.dcls", "audioset_dcls.models", "preprocessing"),
    *("audioset_dcls.evaluation", "audioset_dcls.export", "audioset_dcls.training", "audioset_dcls.store"),
)
FUNCTIONS = ("audioset_dcls.inference.predict.predict", "audioset_dcls.inference.evaluate.evaluate")


def main() -> None:
    """Copy the pages and build the site; a broken link or an unknown name is an error."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    for pattern in PAGES:
        for path in ROOT.glob(pattern):
            target = SOURCE / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    (SOURCE / "docs" / "reference.md").write_text(reference(), encoding="utf-8")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--config-file", ROOT / "mkdocs.yml"]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # an announcement of Material's, on every build
    raise SystemExit(subprocess.run(command, cwd=ROOT, env=quiet).returncode)


def reference() -> str:
    """Markdown with a directive for each public name; a name that two rooms give stands in the first."""
    lines, seen = ["# Reference", "", "What is not named here is private."], set()
    for room in ROOMS:
        package = import_module(room)
        lines += ["", f"## {room}", "", (package.__doc__ or "").partition("\n")[0]]
        for name in package.__all__:
            value = getattr(package, name)
            path = f"{value.__module__}.{name}" if hasattr(value, "__module__") else None
            if path is not None and path not in seen:
                seen.add(path)
                lines += ["", f"::: {path}", "    options:", "      heading_level: 3"]
    lines += ["", "## audioset_dcls.inference"]
    for path in FUNCTIONS:
        lines += ["", f"::: {path}", "    options:", "      heading_level: 3"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
