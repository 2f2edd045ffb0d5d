"""The wheel and the sdist, built and installed outside of the checkout."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from functools import partial
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

import audioset_dcls

ROOT = Path(__file__).parents[1]
RECORDINGS = ROOT / "tests" / "data" / "recordings"
COMMANDS = (
    *("dcls-tag", "dcls-listen", "dcls-prepare", "dcls-train", "dcls-eval", "dcls-export", "dcls-inspect"),
    *("dcls-models", "dcls-page", "dcls-index", "dcls-search", "dcls-teach", "dcls-review"),
)
BY_NAME = {"onnxscript", "tensorboard"}  # torch.onnx.export and Lightning's logger import them, we do not


def build(kind: str, source: Path, target: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (path,) = target.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands in a new environment that holds the wheel and nothing else.

    The libraries it needs come from this environment by a .pth file, in seconds instead of 5 GB. Python does not follow
    the .pth files in a folder named so, hence not the one of an editable install, which would lead back here.
    """
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False)
    scheme = sysconfig.get_paths("venv", {"base": str(place), "platbase": str(place)})
    pip = [sys.executable, "-m", "pip", "--python", str(place), "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*pip, str(wheel)], check=True)
    Path(scheme["purelib"], "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return Path(scheme["scripts"])


def start(installed: Path, folder: Path, name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """An installed command that was started in `folder` and has ended."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"XDG_CACHE_HOME": str(folder / "cache")}
    command = [str(installed / name), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def run(installed: Path, folder: Path, name: str, *arguments: str | Path) -> str:
    """Standard output of an installed command that succeeds."""
    done = start(installed, folder, name, *arguments)
    assert done.returncode == 0, f"{done.args}: {done.stderr}"
    return done.stdout


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_sdist_builds_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert contents(build("wheel", source, tmp_path / "again")) == contents(wheel)


def test_nothing_but_the_product_is_shipped(sdist: Path, wheel: Path) -> None:
    with tarfile.open(sdist) as archive:
        shipped = {Path(*Path(name).parts[1:]) for name in archive.getnames()}
    # the page is there if it was built
    assert {path.parts[0] for path in shipped} - {".gitignore", "page"} == {
        *("audioset_dcls", "preprocessing", "cli.py", "configs", "checkpoints", "hatch_build.py"),
        *("README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "THIRD_PARTY.md", "pyproject.toml", "PKG-INFO"),
    }
    assert not [path for path in shipped if "__pycache__" in path.parts]
    assert {name.split("/")[0] for name in contents(wheel)} <= {
        "audioset_dcls",
        "preprocessing",
        wheel.name.split("-py3")[0] + ".dist-info",
    }
    for path in (sdist, wheel):
        assert path.stat().st_size < 25e6, f"{path.name}: {path.stat().st_size / 1e6:.1f} MB"


def test_installed_it_is_whole(installed: Path, tmp_path: Path) -> None:
    for command in COMMANDS:
        assert f"usage: {command}" in run(installed, tmp_path, command, "--help")
    code = (
        "import audioset_dcls, preprocessing\n"
        "from audioset_dcls.folders import data_folder\n"
        "from preprocessing.labels import labels\n"
        "from pathlib import Path\n"
        "folders = [Path(m.__file__).parent for m in (audioset_dcls, preprocessing)]\n"
        "folders += [data_folder('configs'), data_folder('checkpoints')]\n"
        "print(*folders, len(labels()), sep='\\n')"
    )
    *folders, classes = run(installed, tmp_path, "python", "-c", code).splitlines()
    assert all(Path(folder).is_relative_to(installed.parent) for folder in folders), folders
    assert classes == "527"
    assert "convnext_dcls" in run(installed, tmp_path, "dcls-tag", "--list-models")
    composed = run(installed, tmp_path, "dcls-train", "experiment=convnext_tiny_dcls", "--cfg", "job")
    assert "name: convnext_tiny" in composed


def test_the_lists_of_open_sounds_are_in_a_checkout_alone(
    sdist: Path, wheel: Path, installed: Path, tmp_path: Path
) -> None:
    lists = "preprocessing/corpora/open_sounds/data/"
    assert not [name for name in contents(wheel) if name.startswith(lists)]
    with tarfile.open(sdist) as archive:
        assert any(f"/{lists}recordings.csv" in name for name in archive.getnames())
    done = start(installed, tmp_path, "dcls-prepare", "open-sounds", "out")
    assert done.returncode == 1
    assert done.stderr.startswith("dcls-prepare: ")
    assert done.stderr.endswith("the lists of open sounds are not in the wheel, run dcls-prepare in a checkout\n")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_embedded_tagger_hears(installed: Path, tmp_path: Path) -> None:
    out = run(installed, tmp_path, "dcls-tag", RECORDINGS / "dog_bark.ogg", "--format", "json", "--top", "3")
    (result,) = json.loads(out)
    assert "Bark" in [tag["label"] for tag in result["tags"]]


@pytest.mark.slow
def test_from_a_checkpoint_to_tags(installed: Path, tmp_path: Path) -> None:
    """Create, save, export and tag with what is installed."""
    code = (
        "from audioset_dcls import create_model; from audioset_dcls.models import save_checkpoint\n"
        "save_checkpoint('my.ckpt', create_model('convnext_atto', num_classes=2), ['yes', 'no'])"
    )
    run(installed, tmp_path, "python", "-c", code)
    run(installed, tmp_path, "dcls-export", "my.ckpt", "my.onnx")
    out = run(
        installed,
        tmp_path,
        "dcls-tag",
        RECORDINGS / "cow.ogg",
        "--model",
        "my.onnx",
        "--format",
        "json",
        "--threshold",
        "0.001",
    )
    assert {tag["label"] for tag in json.loads(out)[0]["tags"]} == {"yes", "no"}


def test_dependencies_are_what_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    base = {canonical(line) for line in project["project"]["dependencies"]}
    extra_lines = (line for name in ("train", "cluster", "hub", "live", "store", "teach") for line in extras[name])
    declared = base | {canonical(line) for line in extra_lines}
    distributions = packages_distributions()
    imported = set()
    for path in (*(ROOT / "audioset_dcls").rglob("*.py"), *(ROOT / "preprocessing").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    foreign = imported - sys.stdlib_module_names - {"audioset_dcls", "preprocessing", "triton"}  # torch brings it
    needed = {canonical(min(distributions[name], key=len)) for name in foreign}
    assert needed - declared == set()
    assert declared - needed == BY_NAME
    assert not base & {canonical(line) for line in extras["train"]}
    assert not base & {"torch", "lightning", "h5py", "scipy"}


def test_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert audioset_dcls.__version__ == project["version"] == citation["version"]


def canonical(requirement: str) -> str:
    """hydra-core>=1.3 -> hydra-core, ray[data]>=2.60 -> ray."""
    return re.split(r"[\[>=<]", requirement)[0].strip().lower().replace("_", "-")


def test_without_the_extra_each_command_says_what_to_install(installed: Path, tmp_path: Path) -> None:
    """Tagging works; the others end with one line."""
    hidden = tmp_path / "hidden"
    for name in ("torch", "h5py", "hydra", "lightning", "usearch", "sklearn", "ray", "huggingface_hub"):
        (hidden / name).mkdir(parents=True)
        (hidden / name / "__init__.py").write_text(f"raise ModuleNotFoundError('none', name={name!r})")
    run = partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    environment = os.environ | {"PYTHONPATH": str(hidden), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = run([str(installed / "dcls-tag"), str(RECORDINGS / "dog_bark.ogg")], env=environment)
    assert done.returncode == 0, done.stderr
    for name, arguments in {
        "dcls-train": ["experiment=quick"],
        "dcls-eval": ["x.ckpt", "--data", "x.h5"],
        "dcls-export": ["x.ckpt", "x.onnx"],
        "dcls-inspect": ["x.ckpt"],
        "dcls-prepare": ["folder", "x", "-o", "x.h5"],
    }.items():
        done = run([str(installed / name), *arguments], env=environment)
        assert done.returncode == 1
        assert re.fullmatch(rf"{name}: \w+ is not installed; pip install 'audioset-dcls\[train\]'\n", done.stderr)
    for name, extra, missing in (("dcls-index", "store", "usearch"), ("dcls-teach", "teach", "sklearn")):
        done = run([str(installed / name), "x", "-o", "x.onnx"], env=environment)
        assert done.returncode == 1
        assert done.stderr == f"{name}: {missing} is not installed; pip install 'audioset-dcls[{extra}]'\n"
    done = run([str(installed / "dcls-tag"), "x.wav", "--ray", "-o", "out"], env=environment)
    assert (done.returncode, done.stderr) == (
        1,
        "dcls-tag: ray is not installed; pip install 'audioset-dcls[cluster]'\n",
    )
    done = run([str(installed / "dcls-tag"), "x.wav", "--model", "hf:me/birds"], env=environment)
    assert (done.returncode, done.stderr) == (
        2,
        "dcls-tag: hf:me/birds: needs huggingface_hub; pip install 'audioset-dcls[hub]'\n",
    )


def test_a_foreign_preprocessing_is_named(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "preprocessing.py").write_text("")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([str(installed / "dcls-tag"), "x.wav"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        f"audioset-dcls: {tmp_path / 'preprocessing.py'} is not ours; rename it, or take its folder out of PYTHONPATH\n"
    )
