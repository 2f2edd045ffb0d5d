"""Scenes as training batches: which of them an epoch has, and that validation has the recordings themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from preprocessing.clips.layout import ClipFileError
from preprocessing.clips.writer import ClipWriter
from preprocessing.loading.scenes import SceneDataModule


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Ten recordings of noise of 0.1 to 1 s, each of its own class."""
    rng = np.random.default_rng(0)
    lengths = np.arange(3_200, 32_001, 3_200)
    waveforms = np.zeros((10, 320_000), np.int16)
    for row, length in enumerate(lengths):
        waveforms[row, :length] = rng.integers(-9_000, 9_000, length)
    with ClipWriter(tmp_path / "train.h5", list("abcdefghij"), teacher=True) as writer:
        names = [f"{row}.wav" for row in range(10)]
        writer.append(names, waveforms, np.eye(10, dtype=bool), teacher=np.full((10, 10), 0.25))
        writer.finish({"samples": lengths.astype(np.int32)})
    return tmp_path / "train.h5"


def scenes(corpus: Path, epoch: int = 0, **options: Any) -> list[dict[str, Any]]:
    """The batches of an epoch as the training step gets them."""
    settings = {"batch_size": 4, "scenes_per_epoch": 12, "scene_seconds": 0.5, "num_workers": 0, **options}
    module = SceneDataModule([corpus], val=corpus, **settings)
    module.setup("fit")
    loader = module.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return [module.on_after_batch_transfer(batch, 0) for batch in loader]


def waveforms(batches: list[dict[str, Any]]) -> torch.Tensor:
    """The scenes by their number in the epoch: a shuffled epoch has the same ones in another order."""
    clips = torch.cat([batch["clip"] for batch in batches])
    return torch.cat([batch["waveform"] for batch in batches])[clips.argsort()]


def test_an_epoch_has_the_promised_scenes(corpus: Path) -> None:
    batches = scenes(corpus)
    assert len(batches) == 3
    assert sorted(torch.cat([batch["clip"] for batch in batches]).tolist()) == list(range(12))
    for batch in batches:
        assert set(batch) == {"waveform", "target", "teacher", "clip"}
        assert batch["waveform"].shape == (4, 16_000)
        assert (batch["teacher"][batch["target"]] == 1).all()
        assert (batch["teacher"] >= 0.25).all()


def test_epochs_differ_and_repeat_themselves(corpus: Path) -> None:
    first, second = waveforms(scenes(corpus)), waveforms(scenes(corpus, epoch=1))
    assert not any(torch.equal(scene, other) for scene in first for other in second)
    assert (first.int() - waveforms(scenes(corpus)).int()).abs().max() <= 1  # the FFT of other batches rounds otherwise
    assert not torch.equal(first, waveforms(scenes(corpus, seed=1)))


def test_class_priors_are_the_mean_of_many_scenes(corpus: Path) -> None:
    module = SceneDataModule([corpus], val=corpus, scene_seconds=0.5)
    module.setup("fit")
    drawn = module.scenes()(range(512))
    expected = torch.maximum(drawn["target"].float(), drawn["teacher"].float()).mean(0)
    np.testing.assert_allclose(module.class_priors(), expected, rtol=1e-6)


def test_validation_has_the_recordings_of_all_files(corpus: Path) -> None:
    module = SceneDataModule([corpus], val=[corpus, corpus], batch_size=20, num_workers=0)
    (batch,) = module.val_dataloader()
    assert batch["waveform"].shape == (20, 320_000)
    assert torch.equal(batch["target"], torch.eye(10, dtype=torch.bool).repeat(2, 1))
    assert module.on_after_batch_transfer(batch, 0) is batch


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClipFileError, match=r"no\.h5: no such file"):
        SceneDataModule([tmp_path / "no.h5"]).setup("fit")
