"""Calls of the page's modules under Node.js."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "page"


def node() -> str:
    """Node.js, or the test is skipped."""
    path = shutil.which("node")
    if path is None:
        pytest.skip("Node.js is not installed; the page's modules need it: apt-get install nodejs npm")
    return path


def call(modules: str | list[str], code: str, **values: Any) -> Any:
    """What the body of an async function returns that has the names of the page's modules, and `values`."""
    paths = [(PAGE / "src" / name).as_uri() for name in ([modules] if isinstance(modules, str) else modules)]
    script = f"""
        import {{ readFileSync }} from "node:fs";
        const modules = await Promise.all({json.dumps(paths)}.map((path) => import(path)));
        const names = Object.assign({{}}, ...modules, JSON.parse(readFileSync(0, "utf8")));
        const AsyncFunction = (async () => {{}}).constructor;
        const value = await new AsyncFunction(...Object.keys(names), {json.dumps(code)})(...Object.values(names));
        process.stdout.write(JSON.stringify(value));
    """
    done = subprocess.run(
        [node(), "--input-type=module", "--eval", script],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
