"""Training on scenes that are mixed as they are needed, on the training device; validation on recordings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from preprocessing.loading.coverage import Coverage, class_coverage
from preprocessing.loading.datamodule import AudioSetDataModule
from preprocessing.loading.dataset import ClipDataset, Request
from preprocessing.scenes import Recordings, Scenes, excluded_names, load_recordings

_PRIOR_SCENES = 512


class SceneDataset(ClipDataset):
    """The numbers of scenes, other ones in every epoch: `dataset[Request(clips, (seed, epoch, batch))]`.

    A batch is {"scene": B integers, "clip": int64 (B,)}. `SceneDataModule` mixes the scenes on the training device.
    """

    def __init__(self, paths: Sequence[str | Path], scenes_per_epoch: int, seconds: float) -> None:
        super().__init__(paths, clip_seconds=seconds)
        self.scenes_per_epoch = scenes_per_epoch

    def __len__(self) -> int:
        return self.scenes_per_epoch

    def __getitem__(self, request: Request) -> dict[str, Any]:
        epoch = request.crop_seed[1] if request.crop_seed else 0
        clips = np.asarray(request.clips, np.int64)
        return {"scene": (epoch * self.scenes_per_epoch + clips).tolist(), "clip": torch.from_numpy(clips)}


class SceneDataModule(AudioSetDataModule):
    """Trains on scenes of the recordings in `train`; validation and test are the clips of their files as they are.

    Arguments besides those of `AudioSetDataModule`:
        weights: for each train file, how often its recordings are drawn, besides their classes' rarity.
        exclude: a text file with the names of train clips to leave out, one a line.
        scenes_per_epoch: a multiple of the batch size.
        scene_seconds: length of a scene. A network learns more from a hundred scenes of 2.5 s than from the 25 of 10 s
            that take as long.
        max_recordings: most recordings in a scene.
    """

    def __init__(
        self,
        train: Sequence[str | Path] | str | Path = (),
        *,
        weights: Sequence[float] | None = None,
        exclude: str | Path | None = None,
        scenes_per_epoch: int = 32_768,
        scene_seconds: float = 2.56,
        max_recordings: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(train, random_crop=True, **options)  # a request then tells its epoch
        self.weights, self.exclude = weights, exclude
        self.scenes_per_epoch, self.scene_seconds, self.max_recordings = scenes_per_epoch, scene_seconds, max_recordings
        self._recordings: Recordings | None = None
        self._scenes: Scenes | None = None

    def dataset(self, split: str) -> ClipDataset:
        """The scenes of "train", the clips of "val" or "test"."""
        if split == "train" and split not in self._datasets and self._paths[split]:
            self._datasets[split] = SceneDataset(self._paths[split], self.scenes_per_epoch, self.scene_seconds)
        return super().dataset(split)

    def scenes(self, device: torch.device | str = "cpu") -> Scenes:
        """What mixes the scenes on `device`."""
        if self._recordings is None:
            self._recordings = load_recordings(self._paths["train"], self.weights, self.exclude)
        if self._scenes is None or self._scenes.device != torch.device(device):
            self._scenes = Scenes(self._recordings, self.scene_seconds, self.max_recordings, self.seed, device=device)
        return self._scenes

    def class_priors(self) -> npt.NDArray[np.float32]:
        """(C,) mean over some hundred scenes of the label, or of the joined teacher's score if that is higher."""
        scenes = self.scenes()
        targets = scenes.targets(scenes.plan(range(_PRIOR_SCENES)))
        prior: npt.NDArray[np.float32] = (
            torch.stack([column.float() for column in targets.values()]).amax(0).mean(0).numpy()
        )
        return prior

    def class_coverage(self) -> Coverage:
        """How many training clips and sources have each class, without the clips that `exclude` names."""
        return class_coverage(self.dataset("train").files, excluded_names(self.exclude))

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        if "scene" not in batch:
            return batch
        return self.scenes(batch["clip"].device)(batch.pop("scene")) | batch
