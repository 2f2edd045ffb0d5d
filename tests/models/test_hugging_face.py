"""Taggers on the Hub, against a local server that speaks its API, with the Hub's own client."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, constants, hf_hub_download
from huggingface_hub import file_download as client

from audioset_dcls import Tagger, load_checkpoint
from audioset_dcls.commands.export import export as export_command
from audioset_dcls.models import AudioTagger, HubError, create_model, save_checkpoint
from audioset_dcls.models.card import scores_of
from audioset_dcls.tagging import ModelError
from tests.conftest import COMMAND, environment, write_tones
from tests.hub_server import TOKEN, Hub

SCORES = {"test": {"mAP": [0.57, 0.532, 0.616], "specific_top_3": [0.711, 0.645, 0.777]}}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running Hub, a user who is logged in there, and an empty cache."""
    with Hub() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the real Hub takes Git LFS, too
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def model() -> AudioTagger:
    torch.manual_seed(0)
    model = create_model("test_convnext", dcls=False, num_classes=3).eval()
    model.labels = ("rain", "wind", "Größe | 音")
    model.metadata = {"licence": "MIT", "scores": SCORES, "clip_seconds": 2.0, "val_map": 0.25}
    return model


@pytest.fixture(scope="module")
def exported(model: AudioTagger, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and its ONNX file with labels beside it."""
    from audioset_dcls.export.onnx import export

    folder = tmp_path_factory.mktemp("exported")
    save_checkpoint(folder / "model.safetensors", model)
    return export(model, folder / "tagger.onnx").path


def test_a_tagger_goes_up_and_comes_down(hub: Hub, model: AudioTagger) -> None:
    address = model.push_to_hub("me/birds")
    log_mel = torch.randn(1, 1, 128, 200)
    loaded = AudioTagger.from_pretrained("me/birds")
    torch.testing.assert_close(loaded(log_mel), model(log_mel), rtol=0, atol=0)
    assert (loaded.labels, loaded.metadata) == (model.labels, model.metadata)
    repository = hub.repositories["me/birds"]
    assert address.endswith(f"/me/birds/commit/{repository.branches['main']}")
    files = repository.commits[repository.branches["main"]]
    assert {*files} == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    config = json.loads(files["config.json"][0])
    assert config["model"]["name"] == "test_convnext"
    assert config["labels"] == list(model.labels or ())


def test_a_folder_is_loaded_like_a_repository(tmp_path: Path, model: AudioTagger) -> None:
    model.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text('{"auto_map": {"AutoModel": "evil.Model"}}')  # is not read
    log_mel = torch.randn(1, 1, 128, 200)
    torch.testing.assert_close(AudioTagger.from_pretrained(tmp_path / "saved")(log_mel), model(log_mel))


def test_the_card_holds_the_scores_as_the_hub_reads_them(tmp_path: Path, model: AudioTagger) -> None:
    model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == (
        *("mit", "audioset-dcls", "audio-classification"),
    )
    results = {(one.dataset_type, one.metric_type): one for one in card.data.eval_results}
    assert results["test", "mAP"].metric_value == 0.57
    assert results["test", "mAP"].metric_args == {"interval_95": [0.532, 0.616]}
    assert results["validation", "mAP"].metric_value == 0.25
    assert len(results) == 3
    assert "| test | specific_top_3 | 0.711 | 0.645 to 0.777 |" in card.text


def test_scores_that_are_none_are_left_out() -> None:
    odd = {"a": "high", "b": [1, 2], "c": {"d": [0.5, "x", 1]}, "e": True, "f": 0.5}
    assert list(scores_of({"scores": odd, "val_map": None})) == [("evaluation", "f", 0.5, [])]
    assert list(scores_of({"scores": "good"})) == []


def test_export_pushes_and_a_tagger_of_that_name_tags(
    hub: Hub, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_command(str(exported.with_name("model.safetensors")), tmp_path / "t.onnx", "float32", [], push="me/birds")
    assert f"me/birds: {hub.url}/me/birds/commit/" in capsys.readouterr().out
    repository = hub.repositories["me/birds"]
    files = repository.commits[repository.branches["main"]]
    assert {"README.md", "config.json", "model.safetensors", "tagger.onnx", "tagger.labels.json"} <= files.keys()
    assert files["tagger.onnx"][0] == (tmp_path / "t.onnx").read_bytes()
    assert b"hf:me/birds" in files["README.md"][0]

    (recording,) = write_tones(tmp_path, ["tone.wav"])
    scores = Tagger("hf:me/birds")(recording).scores
    np.testing.assert_array_equal(scores, Tagger(tmp_path / "t.onnx")(recording).scores)
    assert "GET /me/birds/resolve/main/model.safetensors" not in hub.requests
    sent = [request for request in hub.requests if request.startswith("GET ")]
    Tagger("hf:me/birds")
    assert [request for request in hub.requests if request.startswith("GET ")] == sent  # it is in the cache


@pytest.mark.slow
def test_the_real_command_in_a_process_of_its_own(hub: Hub, exported: Path, tmp_path: Path) -> None:
    hub.put("them/birds", tagger__onnx=exported.read_bytes())
    write_tones(tmp_path, ["tone.wav"])
    home = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [*COMMAND, "--model", "hf:them/birds", "--format", "jsonl", "tone.wav"]
    runs = [
        subprocess.run(
            command, cwd=tmp_path, env=environment() | home | more, capture_output=True, text=True, timeout=120
        )
        for more in ({}, {"HF_HUB_OFFLINE": "1"}, {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty")})
    ]
    assert [done.returncode for done in runs] == [0, 0, 2], [done.stderr for done in runs]
    assert runs[0].stdout == runs[1].stdout != ""
    assert runs[2].stderr == "dcls-tag: hf:them/birds: not in the cache; unset HF_HUB_OFFLINE to download it\n"


def test_a_checkpoint_alone_is_exported_once(hub: Hub, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put("them/birds", model__safetensors=exported.with_name("model.safetensors").read_bytes())
    first = Tagger("hf:them/birds")
    monkeypatch.setitem(sys.modules, "audioset_dcls.export.onnx", None)  # the second start exports nothing
    assert Tagger("hf:them/birds").model.path == first.model.path


def test_a_revision_pins_what_is_used(hub: Hub, exported: Path, model: AudioTagger) -> None:
    first = hub.put("them/birds", model__safetensors=exported.with_name("model.safetensors").read_bytes())
    changed = create_model("test_convnext", dcls=False, num_classes=2)
    path = exported.with_name("changed.safetensors")
    save_checkpoint(path, changed, labels=["a", "b"])
    hub.put("them/birds", model__safetensors=path.read_bytes())
    assert load_checkpoint("hf:them/birds").labels == ("a", "b")
    assert load_checkpoint(f"hf:them/birds@{first}").labels == model.labels
    assert AudioTagger.from_pretrained("them/birds", revision=first).labels == model.labels
    asked = len(hub.requests)
    load_checkpoint(f"hf:them/birds@{first}")
    assert len(hub.requests) == asked  # a commit in the cache needs no network
    with pytest.raises(HubError, match=r"^hf:them/birds@v2: has no such revision; name a branch, a tag or a commit$"):
        load_checkpoint("hf:them/birds@v2")


def test_only_two_files_are_asked_for(hub: Hub, exported: Path) -> None:
    hub.put(
        "them/birds",
        tagger__onnx=exported.read_bytes(),
        model__safetensors=exported.with_name("model.safetensors").read_bytes(),
        pytorch_model__bin=b"\x80\x04cos\nsystem\n.",
        modeling__py=b"raise SystemExit('run')",
        config__json=b'{"auto_map": {"AutoModel": "modeling.Model"}}',
    )
    Tagger("hf:them/birds")
    AudioTagger.from_pretrained("them/birds")
    asked = {request.rpartition("/")[2] for request in hub.requests}
    assert asked == {"tagger.onnx", "model.safetensors"}


def test_content_is_compared_with_its_checksum_on_every_use(
    hub: Hub, exported: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub.put("them/birds", tagger__onnx=exported.read_bytes())
    path = Tagger("hf:them/birds").model.path
    damaged = bytearray(exported.read_bytes())
    damaged[-1] ^= 1
    path.resolve().write_bytes(damaged)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"has the checksum [0-9a-f]{64}, expected .*; unset HF_HUB_OFFLINE"):
        Tagger("hf:them/birds")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with caplog.at_level(logging.WARNING):
        assert Tagger("hf:them/birds").model.path.read_bytes() == exported.read_bytes()
    assert "downloading it again" in caplog.text

    hub.damage = True
    path.resolve().write_bytes(damaged)
    with pytest.raises(ModelError, match=r"tagger\.onnx has the checksum .*, as it is sent; try again later"):
        Tagger("hf:them/birds")


def test_refusals_are_one_line(hub: Hub, model: AudioTagger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub.put("them/text", README__md=b"# Text")
    for name, said in (
        ("hf:them/text", "has no tagger.onnx and no model.safetensors"),
        ("hf:them/nothing", "no such repository, or a private one; check the name, or hf auth login"),
        ("hf:text", "no name on the Hub; write hf:owner/name or hf:owner/name@revision"),
        ("hf:../../etc/passwd", "no name on the Hub"),
        ("hf:them/text@../..", "no name on the Hub"),
    ):
        with pytest.raises(ModelError, match=r"^hf:[^\n]+$") as error:
            Tagger(name)
        assert str(error.value).startswith(f"{name}: {said}")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    save_checkpoint(tmp_path / "m.safetensors", model)
    with pytest.raises(SystemExit) as left:
        export_command(str(tmp_path / "m.safetensors"), tmp_path / "o.safetensors", "float32", [], push="me/birds")
    assert left.value.code == 1
    assert (tmp_path / "o.safetensors").is_file()


def test_without_a_server(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", closed)
    monkeypatch.setattr(client, "_DEFAULT_RETRY_ON_EXCEPTIONS", ())  # it would try for half a minute
    with pytest.raises(ModelError, match=r"^hf:them/birds: not in the cache, and the Hub does not answer; try again$"):
        Tagger("hf:them/birds")


def test_the_client_alone_finds_what_was_pushed(hub: Hub, model: AudioTagger) -> None:
    """Other programs see an ordinary repository."""
    from safetensors import safe_open

    model.push_to_hub("me/birds")
    path = hf_hub_download("me/birds", "model.safetensors")
    with safe_open(path, framework="np") as file:
        assert json.loads(file.metadata()["audioset_dcls"])["labels"] == list(model.labels or ())
    assert os.path.islink(path)  # noqa: PTH114
