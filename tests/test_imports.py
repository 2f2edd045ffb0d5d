"""The import rules of CONTRIBUTING.md: which room may use which, and what stays out of memory until it is needed."""

from __future__ import annotations

import ast
import graphlib
import json
import re
import subprocess
import sys
from collections.abc import Container, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import soundfile
from onnx import TensorProto, helper, save_model

from audioset_dcls.tagging.writers import FORMATS

ROOT = Path(__file__).parents[1]
OWN = ("audioset_dcls", "preprocessing")

# Room -> the rooms that it may import, late imports included. Longer names win: audioset_dcls.dcls is a room in
# audioset_dcls. The floors of CONTRIBUTING.md, from below.
PREPROCESSING = {"preprocessing"}
METHOD = {"audioset_dcls.dcls"}
EVALUATION = {"audioset_dcls.evaluation", *PREPROCESSING}
MODELS = {"audioset_dcls.models", "audioset_dcls.folders", *METHOD, *PREPROCESSING}
# Single modules of tagging that others on its floor use: they open ONNX Runtime and cut windows, for all.
SHARED = {"audioset_dcls.tagging.contract", "audioset_dcls.tagging.session", "audioset_dcls.tagging.windows"}
EXPORT = {"audioset_dcls.export", "audioset_dcls", *SHARED, *EVALUATION, *MODELS}
TAGGING = {"audioset_dcls.tagging", *EXPORT}
STORE = {"audioset_dcls.store", "audioset_dcls.tagging", *SHARED, *EVALUATION}
CLUSTER = {"audioset_dcls.cluster", "audioset_dcls", "audioset_dcls.tagging", *SHARED, *PREPROCESSING}
TRAINING = {"audioset_dcls.training", *SHARED, *EVALUATION, *MODELS}
INFERENCE = {"audioset_dcls.inference", *SHARED, *EVALUATION, *MODELS}
ROOMS = {
    "preprocessing": PREPROCESSING,
    "audioset_dcls.dcls": METHOD,
    "audioset_dcls.evaluation": EVALUATION,
    "audioset_dcls.models": MODELS,
    "audioset_dcls.export": EXPORT,
    "audioset_dcls.tagging": TAGGING,
    "audioset_dcls.store": STORE,
    "audioset_dcls.cluster": CLUSTER,
    "audioset_dcls.training": TRAINING,
    "audioset_dcls.inference": INFERENCE,
    "audioset_dcls.commands": {"audioset_dcls.commands", *TAGGING, *STORE, *CLUSTER, *TRAINING, *INFERENCE},
}
# Whole modules of triton's kernels, and the one that imports them, in functions.
TRITON = {"audioset_dcls.dcls.triton_depthwise", "audioset_dcls.dcls.triton_kernel"}
CANDIDATES = "audioset_dcls.dcls.candidates"
TORCH = {"torch", "torchaudio", "timm", "lightning", "torchvision", "onnxscript"}  # torch and what imports it

# Hosts that files name, and why. Package registries and model hubs are none of them: nothing is fetched from there.
HOSTS = {
    "zenodo.org",  # the published checkpoints
    "arxiv.org",  # the papers
    "doi.org",
    "git-lfs.github.com",  # the first line of every Git LFS pointer
    "github.com",  # reference implementations; the repositories of open sounds
    "ray.io",  # the API group of KubeRay's resources
    "freesound.org",  # licences of open sounds quote where sounds came from
    "creativecommons.org",  # licences
    "research.google.com",  # AudioSet
    "www.w3.org",  # the namespace of SVG
}
HOST_NAME = re.compile(rb"(?<![\w.@-])(?:[a-z0-9-]+\.)+(?:org|com|net|io|co|dev|ai|edu)(?![\w.(\[-])", re.IGNORECASE)


def modules() -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of every module of the project."""
    for package in OWN:
        for path in (ROOT / f"{package}.py", *sorted((ROOT / package).rglob("*.py"))):
            if path.is_file():
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                yield name.removesuffix(".__init__"), path


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules named by the import statements in a tree, those in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import hides which room it is from"
            assert node.module
            yield node.module
            # `from audioset_dcls import models` names the room behind the import
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module in OWN)


def room_of(module: str) -> str:
    """audioset_dcls.tagging.tagger -> audioset_dcls.tagging; audioset_dcls.Tagger -> audioset_dcls."""
    if module in SHARED:
        return module
    first, _, rest = module.partition(".")
    second = rest.partition(".")[0]
    inside = (ROOT / first / second).is_dir() or (ROOT / first / f"{second}.py").is_file()
    return f"{first}.{second}" if first == "audioset_dcls" and second and inside else first


def run(code: str) -> set[str]:
    """The modules that are loaded after running the code in a fresh interpreter."""
    report = f"{code}\nimport sys; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", report], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_uses_those_below_it_only(room: str) -> None:
    files = [(name, path) for name, path in modules() if name.startswith(f"{room}.") or name == room]
    assert files
    for name, path in files:
        own = {room_of(module) for module in imported(ast.parse(path.read_text())) if module.split(".")[0] in OWN}
        assert own <= ROOMS[room], f"{name} imports {sorted(own - ROOMS[room])}"


@pytest.mark.parametrize("package", [name for name, path in modules() if path.name == "__init__.py"])
def test_public_names_of_a_room(package: str) -> None:
    """Each name of `__all__` is there, in `dir()` too; a submodule of that name would take its place once imported."""
    room = import_module(package)
    for name in getattr(room, "__all__", []):
        assert getattr(room, name) is not None
        assert name in dir(room)
        assert f"{package}.{name}" not in dict(modules())
    with pytest.raises(AttributeError, match=f"'{package}' has no attribute 'nonsense'"):
        _ = room.nonsense


def test_no_module_needs_itself() -> None:
    """No circle of imports, late ones included; those for type checkers alone are none."""
    known = dict(modules())
    needs = {name: needed(ast.parse(path.read_text()), known) - {name} for name, path in known.items()}
    list(graphlib.TopologicalSorter(needs).static_order())  # raises CycleError, which names the circle


def needed(tree: ast.Module, known: Container[str]) -> set[str]:
    """Modules among those known that a tree imports, not those under `if TYPE_CHECKING`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {member for member in members if member in known} or {node.module}
    return {name for name in found if name in known}


def test_the_method_needs_torch_alone() -> None:
    for name, path in modules():
        if room_of(name) == "audioset_dcls.dcls":
            used = {module.split(".")[0] for module in imported(ast.parse(path.read_text()))}
            # Triton comes with torch, on the platforms that have it
            own = {"torch", "audioset_dcls"} | ({"triton"} if name in {*TRITON, CANDIDATES} else set())
            foreign = used - sys.stdlib_module_names - own
            assert not foreign, f"{name} imports {sorted(foreign)}"


def test_triton_is_imported_when_a_tensor_on_a_gpu_comes() -> None:
    for name, path in modules():
        tree = ast.parse(path.read_text())
        at_once = {module for node in tree.body for module in imported(node) if not isinstance(node, ast.FunctionDef)}
        if name not in TRITON:
            assert not at_once & {"triton", *TRITON}, name
        if name not in {*TRITON, CANDIDATES}:
            assert not set(imported(tree)) & {"triton", *TRITON}, name


def test_evaluation_knows_scores_and_targets_alone() -> None:
    for name, path in modules():
        if room_of(name) == "audioset_dcls.evaluation":
            used = {module.split(".")[0] for module in imported(ast.parse(path.read_text()))}
            assert not used & (TORCH | {"onnxruntime"}), f"{name} imports {sorted(used & TORCH)}"


def test_commands_import_inside() -> None:
    """So that `--help` answers at once."""
    light = {"audioset_dcls.commands.parser", "audioset_dcls.folders", "preprocessing.terminal"}
    for name, path in modules():
        if name.startswith("audioset_dcls.commands."):
            top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
            used = {module for node in top for module in imported(node)}
            foreign = {module for module in used if module.split(".")[0] not in sys.stdlib_module_names} - light
            assert not foreign, f"{name} imports {sorted(foreign)}"


@pytest.mark.parametrize("package", ["audioset_dcls", "preprocessing", "audioset_dcls.commands.tag"])
def test_a_package_imports_nothing_heavy(package: str) -> None:
    assert run(f"import {package}") & (TORCH | {"numpy", "onnxruntime", "hydra", "matplotlib"}) == set()


def test_nothing_needs_fcntl() -> None:
    """Windows has none: an import of it would keep every command from starting. filelock is for that."""
    using = [name for name, path in modules() if "fcntl" in imported(ast.parse(path.read_text()))]
    assert using == []


def test_tagging_never_imports_torch(tmp_path: Path) -> None:
    """With everything that a run can ask for: every format, events, embeddings, a picture, stereo at 8 kHz, MP3."""
    soundfile.write(tmp_path / "a.wav", np.zeros((8000, 2)), 8000)
    soundfile.write(tmp_path / "b.mp3", np.random.default_rng(0).normal(0, 0.1, 12 * 44100), 44100)
    write_tagger(tmp_path / "tiny.onnx")
    # several recordings are decoded by other processes, single ones in this process
    loaded = run(
        "import sys; from audioset_dcls.commands.tag import main\n"
        f"import os; os.chdir({str(tmp_path)!r})\n"
        "for recordings in ('.', 'a.wav', 'b.mp3'):\n"
        "    sys.argv = ['dcls-tag', '--model', 'tiny.onnx', recordings, '-o', 'tags', '--timeline', '--embeddings',\n"
        f"                '--plot', '--format', '{','.join(FORMATS)}', '--quiet']\n"
        "    try: main()\n"
        "    except SystemExit as end: assert not end.code, end.code"
    )
    assert (tmp_path / "tags" / "b.mp3.png").is_file()
    assert (tmp_path / "tags" / "tags.parquet").is_file()
    assert {"onnxruntime", "soundfile", "av"} <= loaded
    assert (
        loaded & (TORCH | {"librosa", "sklearn", "onnx", "h5py", "hydra", "ray", "fsspec", "huggingface_hub"}) == set()
    )


def write_tagger(path: Path) -> None:
    """The smallest file that `dcls-tag` takes: each score tells how loud it is."""
    nodes = [
        helper.make_node("ReduceL2", ["waveform"], ["level"], axes=[1], keepdims=1),
        helper.make_node("Sigmoid", ["level"], ["score"]),
        helper.make_node("Concat", ["score"] * 3, ["scores"], axis=1),
        helper.make_node("Concat", ["level"] * 3, ["embedding"], axis=1),
        helper.make_node("Reshape", ["level", "map"], ["log_mel"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["batch", "samples"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("scores", "embedding", "log_mel")],
        [helper.make_tensor("map", TensorProto.INT64, [4], [-1, 1, 1, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"labels": json.dumps(["Speech", "Dog", "Bark"]), "sample_rate": "32000"})
    save_model(model, path)


def test_files_name_no_host_but_those_needed() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    paths = [ROOT / name.decode() for name in listed.split(b"\0") if name]
    assert len(paths) > 100
    for path in filter(Path.is_file, paths):
        content = path.read_bytes()
        if b"\0" not in content:
            unknown = {host.decode().lower() for host in HOST_NAME.findall(content)} - HOSTS
            assert not unknown, f"{path.relative_to(ROOT)} names {sorted(unknown)}"
