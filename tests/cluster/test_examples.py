"""The example files of docs/scale.md, as far as they can be checked without machines."""

from __future__ import annotations

import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from audioset_dcls.commands import tag
from tests.conftest import ROOT

EXAMPLES = ROOT / "examples"


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((EXAMPLES / name).read_text())
    return content


def test_ray_up_takes_its_file() -> None:
    """Against the schema in the installed Ray."""
    jsonschema = pytest.importorskip("jsonschema")
    ray = find_spec("ray")  # importing it takes seconds
    if ray is None or ray.origin is None:
        pytest.skip("Ray is not installed")
    schema = Path(ray.origin).parent / "autoscaler" / "ray-schema.json"
    jsonschema.validate(read("ray_up.yaml"), json.loads(schema.read_text()))


def test_kuberay_starts_what_the_image_has() -> None:
    text, spec = (EXAMPLES / "kuberay.yaml").read_text(), read("kuberay.yaml")["spec"]
    cluster = spec["rayClusterSpec"]
    (version,) = re.findall(r"rayproject/ray:([\d.]+)-py", text)
    assert cluster["rayVersion"] == version
    (workers,) = cluster["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    arguments = shlex.split(spec["entrypoint"])
    jobs = int(arguments[arguments.index("--jobs") + 1])
    assert jobs == workers["replicas"] * int(container["resources"]["limits"]["cpu"])  # a core each


@pytest.mark.parametrize("command", [r"entrypoint: dcls-tag (.+)", r"ray exec \S+ 'dcls-tag (.+)'"])
def test_the_commands_are_ones(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(path.read_text() for path in EXAMPLES.glob("*.yaml"))
    (found,) = re.findall(command, text)
    seen: list[Any] = []
    monkeypatch.setattr(tag, "tag", seen.append)
    monkeypatch.setattr("sys.argv", ["dcls-tag", *shlex.split(found)])
    tag.main()
    (arguments,) = seen
    assert arguments.ray == "auto"
    assert arguments.inputs
    assert arguments.output.is_absolute()
