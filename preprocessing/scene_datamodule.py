"""Training on scenes made as they are needed, out of the recordings of HDF5 files; evaluation on the recordings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from preprocessing.datamodule import AudioSetDataModule
from preprocessing.dataset import ClipDataset, Request
from preprocessing.scenes import Scenes, drawing_weights, load_recordings

_PRIOR_SCENES = 512


class SceneDataset(ClipDataset):
    """Batches of scenes of the files' recordings, as many an epoch as it is told; other ones in every epoch.

    `dataset[Request([5, 0], crop_seed)]` has scenes 5 and 0 of the epoch that `crop_seed`, (seed, epoch, batch), names.
    `teacher` is in the batches where the files have a teacher's scores: joined as `Scenes` says.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        scenes_per_epoch: int,
        seconds: float,
        recordings_per_scene: tuple[int, int],
        seed: int,
        balanced: bool,
    ) -> None:
        super().__init__(paths)
        recordings = load_recordings(paths)
        weight = drawing_weights(recordings.target) if balanced else None
        self.scenes = Scenes(recordings, scenes_per_epoch, seconds, recordings_per_scene, seed=seed, weight=weight)
        self.samples = self.scenes.samples
        self._has_teacher = recordings.teacher is not None

    def __len__(self) -> int:
        return len(self.scenes)

    def class_priors(self) -> npt.NDArray[np.float32]:
        """(C,) mean over some hundred scenes of the label, or of the joined teacher's score where that is higher."""
        scenes = [self.scenes[index] for index in range(min(len(self), _PRIOR_SCENES))]
        columns = ("target", "teacher") if self._has_teacher else ("target",)
        prior: npt.NDArray[np.float32] = np.mean(
            [np.max([scene[name] for name in columns], axis=0) for scene in scenes], axis=0, dtype=np.float32
        )
        return prior

    def __getitem__(self, request: Request) -> dict[str, torch.Tensor]:
        epoch = request.crop_seed[1] if request.crop_seed else 0
        scenes = [self.scenes[epoch * len(self) + int(clip)] for clip in request.clips]
        columns = ("waveform", "target", "teacher") if self._has_teacher else ("waveform", "target")
        batch = {name: torch.from_numpy(np.stack([scene[name] for scene in scenes])) for name in columns}
        return batch | {"clip": torch.from_numpy(np.asarray(request.clips, np.int64))}


class SceneDataModule(AudioSetDataModule):
    """Trains on scenes of the recordings in `train`; validation and test are the clips of their files as they are.

    Arguments besides those of `AudioSetDataModule`:
        scenes_per_epoch: a multiple of the batch size.
        scene_seconds: length of a scene. Short ones first: a network learns more from a hundred scenes of 2.5 s than
            from the 25 of 10 s that take as long.
        recordings_per_scene: least and most of them.
        balanced: draw recordings of rare classes more often (`scenes.drawing_weights`).
    """

    def __init__(
        self,
        train: Sequence[str | Path] | str | Path = (),
        *,
        scenes_per_epoch: int = 10_000,
        scene_seconds: float = 10.0,
        recordings_per_scene: Sequence[int] = (1, 4),
        balanced: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(train, random_crop=True, **options)  # a request then tells its epoch
        self.scenes_per_epoch = scenes_per_epoch
        self.scene_seconds = scene_seconds
        least, most = recordings_per_scene
        self.recordings_per_scene = (least, most)
        self._balanced_scenes = balanced

    def dataset(self, split: str) -> ClipDataset:
        """The scenes of "train", the clips of "val" or "test"."""
        if split == "train" and split not in self._datasets and self._paths[split]:
            self._datasets[split] = SceneDataset(
                self._paths[split],
                self.scenes_per_epoch,
                self.scene_seconds,
                self.recordings_per_scene,
                self.seed,
                self._balanced_scenes,
            )
        return super().dataset(split)
