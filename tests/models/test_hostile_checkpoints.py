"""Checkpoints made to harm: each is refused in one line, writes nothing, and takes neither memory nor time."""

from __future__ import annotations

import io
import json
import pickle
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from audioset_dcls.models import CheckpointError, checkpoint_header, create_model, load_checkpoint, save_checkpoint

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {"num_classes": 3, "dcls": False, "depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}
ONE_LINE = r"^[^\n\x1b]*hostile\.\w+: [^\n\x1b]+$"
MOST_MEMORY = 100 * 2**20  # bytes; the smallest of the bombs would take five times as much


def content(config: dict[str, Any] | None = None, **header: Any) -> dict[str, Any]:
    """A small checkpoint, with other values in its config or header."""
    model = create_model("test_convnext", **SMALL)
    stored = checkpoint_header(model, labels=["a", "b", "c"])
    stored["model"] |= config or {}
    weights = {f"model.{key}": value for key, value in model.state_dict().items()}
    return {"audioset_dcls": stored | header, "state_dict": weights}


def refuse(path: Path, said: str = "") -> str:
    with pytest.raises(CheckpointError, match=ONE_LINE) as error:
        load_checkpoint(path)
    assert said in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    "config",
    [
        {"pretrained": True},
        {"pretrained": "weights.pth"},
        {"pretrained_cfg": {"url": "http://127.0.0.1:9/x.pth"}},
        {"pretrained_cfg_overlay": {"file": "weights.pth"}},
        {"pretrained_cfg_overlay": {"url": "data:application/octet-stream;base64,aW1wb3J0IG9z"}, "pretrained": True},
        {"checkpoint_path": "weights.pth"},
        {"cache_dir": "."},
        {"scriptable": True},
        {"features_only": True},
        {"norm_layers": "x"},
        {"": 1},
        {"\x1b[31m\n": 1},
    ],
    ids=str,
)
def test_only_known_options_come_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], suffix: str
) -> None:
    path = tmp_path / f"hostile.{suffix}"
    made = content(config)
    if suffix == "pth":
        torch.save(made, path)
    else:
        weights = {key: value.contiguous() for key, value in made["state_dict"].items()}
        path.write_bytes(save(weights, {"audioset_dcls": json.dumps(made["audioset_dcls"])}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("timm.create_model", lambda *args, **kwargs: pytest.fail("timm was asked"))
    refuse(path, "is no option of a model")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "name", ["hf-hub:owner/model", "hf_hub:a/b", "local-dir:.", "timm/convnext_tiny", "../x", 3, None]
)
def test_a_name_is_one_of_timms_own_models(tmp_path: Path, name: Any) -> None:
    torch.save(content({"name": name}), tmp_path / "hostile.pth")
    refuse(tmp_path / "hostile.pth", " is no trunk; known are ")


VALUES: list[Any] = [None, "x", [], {}, -1, 10**30, 1e308, float("nan"), [10**6] * 4, [[[]]], ["1"] * 4, [1] * 10**4]


@pytest.mark.parametrize("key", ["num_classes", "kernel_count", "dilated_kernel_size", "depths", "dims", "drop_rate"])
def test_values_of_other_types_and_sizes(tmp_path: Path, key: str) -> None:
    for number, value in enumerate(VALUES):
        path = tmp_path / f"hostile.{number}"
        torch.save(content({key: value}), path)
        refuse(path)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"labels": ["a", "b"]}, "2 labels for 3 classes"),
        ({"labels": ["a", "b", ["c"]]}, "labels hold ['c']"),
        ({"labels": "abc"}, "labels are 'abc'"),
        ({"labels": ["x" * 10**6] * 3}, "expected names of 1 to"),
        ({"version": "1"}, "version is '1'"),
        ({"version": [[]]}, "version is [[]]"),
        ({"model": ["name"]}, "no dictionary"),
        ({"metadata": "text"}, "no dictionary"),
        ({"metadata": {"x": torch.zeros(3)}}, "holds a Tensor"),
        ({"metadata": {1: 2}}, "no strings"),
    ],
)
def test_headers_of_other_types(tmp_path: Path, header: dict[str, Any], said: str) -> None:
    torch.save(content(None, **header), tmp_path / "hostile.pth")
    refuse(tmp_path / "hostile.pth", said)


def test_metadata_that_never_ends(tmp_path: Path) -> None:
    doubled: list[Any] = ["x"]
    for _ in range(30):
        doubled = [doubled, doubled]
    endless: list[Any] = []
    endless.append(endless)
    for value in (doubled, endless):
        torch.save(content(None, metadata={"x": value}), tmp_path / "hostile.pth")
        refuse(tmp_path / "hostile.pth", "nested too deeply or too large")
    weights = {"model.x": torch.zeros(1)}
    deep = "[" * 200_000 + "]" * 200_000
    (tmp_path / "hostile.safetensors").write_bytes(save(weights, {"audioset_dcls": deep}))
    refuse(tmp_path / "hostile.safetensors", "damaged or truncated")


def test_imagenet_weights_of_a_stranger_run_no_code(tmp_path: Path) -> None:
    for zipped in (True, False):
        made = {"stem.0.weight": Called(Path.touch, tmp_path / "proof")}
        torch.save(made, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(RuntimeError, match=r"^ImageNet weights of test_convnext [^\n]*$"):
            create_model("test_convnext", pretrained=str(tmp_path / "x.pth"))
    assert not (tmp_path / "proof").exists()


class Called:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def archive(path: Path, pickled: bytes, **entries: bytes) -> None:
    """An archive as torch.save writes it, around any pickle."""
    with zipfile.ZipFile(path, "w") as file:
        for name, data in {"data.pkl": pickled, "version": b"3\n", "byteorder": b"little", **entries}.items():
            file.writestr(f"archive/{name.replace('_', '/')}", data)


def stretched(path: Path) -> None:
    """One of the weights is 10^6 x 10^6: the same four bytes over and over."""
    made = content()
    made["state_dict"]["model.trunk.stem.0.weight"] = torch.zeros(1).expand(10**6, 10**6)
    torch.save(made, path)


def overstated(path: Path) -> None:
    """A storage that claims 10^9 elements, where the archive holds one."""
    file = io.BytesIO()
    storage = object()

    class Pickler(pickle.Pickler):
        def persistent_id(self, item: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", 10**9) if item is storage else None

    tensor = Called(torch._utils._rebuild_tensor_v2, storage, 0, (10**9,), (1,), False, {})
    header = content()["audioset_dcls"]
    Pickler(file, 2).dump({"audioset_dcls": header, "state_dict": {"model.trunk.stem.0.weight": tensor}})
    archive(path, file.getvalue(), data_0=bytes(4))


def big_config() -> dict[str, Any]:
    return {"name": "convnextv2_huge", "dims": [8192] * 4, "depths": [128] * 4, "num_classes": 100_000}


def wide_kernels(path: Path) -> None:
    """Elements of 26 weights, and a config by which each becomes a kernel of 127 x 127."""
    with torch.device("meta"):
        model = create_model("convnext_atto", num_classes=3, depths=[1, 1, 60, 1], dims=[8, 8, 600, 8], conv_mlp=True)
    weights = {f"model.{key}": torch.zeros(value.shape).half() for key, value in model.state_dict().items()}
    header = checkpoint_header(model, ["a", "b", "c"])
    header["model"]["dilated_kernel_size"] = 127
    torch.save({"audioset_dcls": header, "state_dict": weights}, path)


def compressed(path: Path) -> None:
    """The pickle is followed by half a gigabyte of zeros, deflated."""
    buffer = io.BytesIO()
    torch.save(content(), buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
        for entry in source.infolist():
            with target.open(entry.filename, "w") as file:
                file.write(source.read(entry))
                for _ in range(512 if entry.filename.endswith("data.pkl") else 0):
                    file.write(bytes(2**20))


BOMBS: dict[str, Callable[[Path], object]] = {
    "bytearray": lambda path: archive(path, pickle.dumps({"x": Called(bytearray, 4_700_000_000)}, 2)),
    "tensor": lambda path: archive(path, pickle.dumps({"x": Called(torch.Tensor, 50_000, 50_000)}, 2)),
    "compressed": compressed,
    "stride 0": stretched,
    "storage larger than its entry": overstated,
    "huge sizes": lambda path: torch.save(content(big_config(), labels=None), path),
    "wide kernels": wide_kernels,
    "old format": lambda path: torch.save({"x": torch.zeros(10)}, path, _use_new_zipfile_serialization=False),
    "safetensors header": lambda path: path.write_bytes((2**62).to_bytes(8, "little") + b"{" + bytes(1000)),
    "safetensors shape": lambda path: path.write_bytes(
        (header := json.dumps({"x": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4]}}).encode())
        and len(header).to_bytes(8, "little") + header + bytes(4)
    ),
}


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """{name: [message, bytes of memory that it took]}, each in turn in a process with little memory to give."""
    folder = tmp_path_factory.mktemp("bombs")
    save_checkpoint(folder / "good.pth", create_model("test_convnext", **SMALL))
    for name, make in BOMBS.items():
        (folder / name).mkdir()
        make(folder / name / "hostile.pth")
    code = (
        "import json, sys\n"
        "from tests.memory import peak, reset_peak\n"
        "from audioset_dcls.models import load_checkpoint\n"
        "load_checkpoint(sys.argv[1])\n"
        "results = []\n"
        "for path in sys.argv[2:]:\n"
        "    reset_peak()\n"
        "    before, message = peak(), 'was loaded'\n"
        "    try: load_checkpoint(path)\n"
        "    except ValueError as error: message = str(error)\n"
        "    results.append([message, peak() - before])\n"
        "print(json.dumps(results))"
    )
    paths = [str(folder / name / "hostile.pth") for name in BOMBS]
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder / "good.pth"), *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (200, 200)),
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(BOMBS, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_take_no_memory(bombs: dict[str, list[Any]], name: str) -> None:
    message, memory = bombs[name]
    assert "hostile.pth: " in message, message
    assert "\n" not in message
    assert memory < MOST_MEMORY
