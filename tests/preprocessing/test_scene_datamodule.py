import numpy as np
import pytest
import torch

from preprocessing.hdf5 import ClipFileError, ClipWriter
from preprocessing.scene_datamodule import SceneDataModule

RATE = 32_000


@pytest.fixture
def corpus(tmp_path):
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


def batches(corpus, epoch=0, **options):
    module = SceneDataModule(
        [corpus], val=corpus, batch_size=4, scenes_per_epoch=12, scene_seconds=0.5, **({"num_workers": 0} | options)
    )
    module.setup("fit")
    loader = module.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


def waveforms(loaded):
    """The scenes by their number in the epoch: a shuffled epoch has the same ones in another order."""
    clips = torch.cat([batch["clip"] for batch in loaded])
    return torch.cat([batch["waveform"] for batch in loaded])[clips.argsort()]


def test_an_epoch_has_the_promised_scenes(corpus):
    loaded = batches(corpus)
    assert len(loaded) == 3
    assert sorted(torch.cat([batch["clip"] for batch in loaded]).tolist()) == list(range(12))
    for batch in loaded:
        assert batch["waveform"].shape == (4, 16_000)
        assert batch["waveform"].dtype == torch.int16
        assert batch["target"].dtype == torch.bool
        assert batch["teacher"].dtype == torch.float16
        assert (batch["teacher"][batch["target"]] == 1).all()
        assert (batch["teacher"] >= 0.25).all()


def test_epochs_differ_and_repeat_themselves(corpus):
    first, second = waveforms(batches(corpus)), waveforms(batches(corpus, epoch=1))
    assert not any(torch.equal(scene, other) for scene in first for other in second)
    assert torch.equal(first, waveforms(batches(corpus)))
    assert not torch.equal(first, waveforms(batches(corpus, seed=1)))


def test_workers_make_the_same_scenes(corpus):
    alone, helped = batches(corpus), batches(corpus, num_workers=1)
    for batch, other in zip(alone, helped, strict=True):
        assert all(torch.equal(batch[name], other[name]) for name in batch)


def test_validation_has_the_recordings_themselves(corpus):
    module = SceneDataModule([corpus], val=corpus, batch_size=10, num_workers=0)
    (batch,) = module.val_dataloader()
    assert batch["waveform"].shape == (10, 320_000)
    assert torch.equal(batch["target"], torch.eye(10, dtype=torch.bool))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ClipFileError, match=r"no\.h5: no such file"):
        SceneDataModule([tmp_path / "no.h5"]).setup("fit")
