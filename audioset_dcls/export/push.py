"""A tagger onto the Hugging Face Hub: checkpoint, ONNX file and model card in one commit."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from audioset_dcls.models.hugging_face import ONNX_FILE, WEIGHTS_FILE, upload
from audioset_dcls.models.trunks import AudioTagger
from audioset_dcls.tagging.contract import labels_file


def push(model: AudioTagger, exported: Path, repository: str) -> str:
    """Upload a model and what was exported of it; the address of the commit.

    Args:
        exported: an .onnx file, which goes beside the model's own checkpoint, with its labels; or a .safetensors file,
            which is the checkpoint.
        repository: "owner/name"; it is made if it is missing.

    Raises HubError.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save_pretrained(folder, model_card_kwargs={"repository": repository})
        if exported.suffix == ".onnx":
            shutil.copyfile(exported, folder / ONNX_FILE)
            shutil.copyfile(labels_file(exported), labels_file(folder / ONNX_FILE))
        else:
            shutil.copyfile(exported, folder / WEIGHTS_FILE)
        return upload(folder, repository, "Upload a tagger with dcls-export")
