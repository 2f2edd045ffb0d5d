"""Batches of clips from HDF5 files, for training and evaluation.

A batch is a dict of tensors: `waveform` int16 (B, samples), `target` bool (B, C), `clip` int64 (B,), the place among
the joined files, and, with a teacher, `teacher` float16 (B, C). Casting, log-mel and augmentation happen on the
training device: the CPU has nothing to do but to read. With a stored teacher's embeddings there is `embedding` float16
(B, D), and in validation, if files tell it, `length` int64 (B,): where the zeros begin that pad a clip.

What is in a batch depends on the seed, the epoch and the batch's number alone, not on the workers; the place in an
epoch is part of Lightning's checkpoints. So a training that was killed goes on with the batches it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, DistributedSampler

from preprocessing.clips.layout import ClipFileError
from preprocessing.loading.coverage import Coverage, class_coverage
from preprocessing.loading.dataset import ClipDataset, Request, shared_memory_errors, workers_that_fit


class TrainBatches(DistributedSampler[Any]):
    """The requests of one process in an epoch: shuffled by (seed, epoch), every process as many full batches.

    A new order each epoch leaves out other clips at its end. With `weights` clips are drawn with replacement. Fewer
    clips than a batch has on all processes make one smaller batch.

    It is a DistributedSampler because that is what Lightning leaves alone and tells the epoch.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        batch_size: int,
        seed: int = 0,
        *,
        weights: npt.NDArray[np.float64] | None = None,
        random_crop: bool = False,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(dataset, num_replicas, rank, seed=seed)
        if len(dataset) < num_replicas:
            raise ClipFileError(f"{len(dataset)} clips are too few for {num_replicas} processes")
        self._clips = len(dataset)
        self._batch_size = min(batch_size, len(dataset) // num_replicas)
        self._weights = weights
        self._random_crop = random_crop
        self.first = 0
        """The batch to begin with: past 0 where a training goes on in the middle of an epoch."""

    def __len__(self) -> int:
        return self._clips // (self._batch_size * self.num_replicas)

    def __iter__(self) -> Iterator[Request]:
        generator = np.random.default_rng([self.seed, self.epoch])
        if self._weights is None:
            order = generator.permutation(self._clips)
        else:
            order = generator.choice(self._clips, self._clips, p=self._weights)
        for number in range(
            self.first * self.num_replicas + self.rank, len(self) * self.num_replicas, self.num_replicas
        ):
            clips = order[number * self._batch_size : (number + 1) * self._batch_size]
            yield Request(clips, (self.seed, self.epoch, number) if self._random_crop else None)


class EvalBatches(DistributedSampler[Any]):
    """The requests of one process for every clip once, in order, on however many processes.

    Nothing is padded and nothing comes twice. Every process has as many batches, because DistributedDataParallel waits
    in each for the others; so batches are of nearly, not all of exactly, the same size.
    """

    def __init__(self, dataset: ClipDataset, batch_size: int, *, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=False)
        self.first = 0
        if len(dataset) < num_replicas:
            raise ClipFileError(f"{len(dataset)} clips are too few for {num_replicas} processes")
        self._clips = len(dataset)
        # the second: no batch is empty where one clip a batch does not come out even
        self._batches = min(-(-len(dataset) // (batch_size * num_replicas)), len(dataset) // num_replicas)

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Request]:
        pieces = np.array_split(np.arange(self._clips), self._batches * self.num_replicas)
        own = pieces[self.rank * self._batches : (self.rank + 1) * self._batches]
        return map(Request, own[self.first :])


class ClipLoader(DataLoader[dict[str, torch.Tensor]]):
    """A DataLoader of whole batches that tells and takes back its place in the epoch (Lightning stores it).

    Its workers start when the first batch is asked for: Lightning makes the iterator before it tells the epoch.
    """

    def __init__(self, dataset: ClipDataset, sampler: TrainBatches | EvalBatches, **options: Any) -> None:
        super().__init__(dataset, sampler=sampler, batch_size=None, **options)
        self._position = {"epoch": 0, "batches": 0}
        self._resume: dict[str, int] | None = None

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:  # type: ignore[override]
        assert isinstance(self.sampler, TrainBatches | EvalBatches)
        self._position = {"epoch": self.sampler.epoch, "batches": 0}
        if self._resume is not None and self._resume["epoch"] == self.sampler.epoch:
            self._position = self._resume
        self._resume = None
        self.sampler.first = self._position["batches"]
        with shared_memory_errors():
            for batch in super().__iter__():
                self._position["batches"] += 1
                yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch and how many of its batches were handed out."""
        return dict(self._position)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on there: the next iteration, if it is of that epoch, leaves those batches out."""
        self._resume = dict(state)


class AudioSetDataModule(lightning.LightningDataModule):
    """Train, validation and test clips from HDF5 files in the layout of `preprocessing.clips`, PANNs' own among them.

    Arguments:
        train: one or more files; they are joined, e.g. balanced and unbalanced.
        val, test: one or more files each.
        batch_size: clips a process and batch.
        num_workers: processes that read ahead, fewer if shared memory is too small; 0 reads in this one.
        seed: of the order and the crops, together with the epoch.
        balanced: draw clips with replacement so that every label comes equally often; off, as in DCLS-Audio.
        teacher: where the train clips' scores of a teacher lie: `"stored"` in the train files, or an npz or HDF5 file
            (`TeacherScores`).
        clip_seconds: length of the clips in a batch, at most that of the files; None for whole clips.
        random_crop: train on a random part of longer clips instead of their first; evaluation has the first part.

    If files tell which zeros pad their clips, those are left out. In validation and test each clip has its `length`;
    in training it is repeated up to the longest of its batch.

    Raises ClipFileError as `ClipDataset` does, and if a split is asked for that was not given.
    """

    def __init__(
        self,
        train: Sequence[str | Path] | str | Path = (),
        val: Sequence[str | Path] | str | Path | None = None,
        test: Sequence[str | Path] | str | Path | None = None,
        batch_size: int = 64,
        num_workers: int = 4,
        seed: int = 0,
        balanced: bool = False,
        teacher: str | Path | None = None,
        clip_seconds: float | None = 10.0,
        random_crop: bool = False,
    ) -> None:
        super().__init__()
        self._paths: dict[str, list[str | Path]] = {
            split: [paths] if isinstance(paths, str | Path) else list(paths or ())
            for split, paths in (("train", train), ("val", val), ("test", test))
        }
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.balanced = balanced
        self.teacher = teacher
        self.clip_seconds = clip_seconds
        self.random_crop = random_crop
        self._datasets: dict[str, ClipDataset] = {}

    def dataset(self, split: str) -> ClipDataset:
        """The clips of "train", "val" or "test"."""
        if split not in self._datasets:
            if not self._paths[split]:
                raise ClipFileError(f"data: no file was given for {split}")
            if split == "train":
                dataset = ClipDataset(self._paths[split], self.clip_seconds, self.teacher)
            else:
                dataset = ClipDataset(self._paths[split], self.clip_seconds, lengths=True)
            for other, opened in self._datasets.items():
                if opened.labels != dataset.labels:
                    raise ClipFileError(f"{self._paths[split][0]}: has other labels than the {other} file")
            self._datasets[split] = dataset
        return self._datasets[split]

    def class_priors(self) -> npt.NDArray[np.float32]:
        """(C,) how often each class comes in training: `ClipDataset.class_priors`."""
        return self.dataset("train").class_priors()

    def class_coverage(self) -> Coverage:
        """How many training clips and sources have each class."""
        return class_coverage(self.dataset("train").files)

    @property
    def labels(self) -> tuple[str, ...]:
        """Display names of the C classes, from the first file there is."""
        return self.dataset(next(split for split, paths in self._paths.items() if paths)).labels

    def setup(self, stage: str) -> None:
        """Open the files that `stage` needs, so that what is wrong with one shows before anything has begun."""
        needed = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}.get(stage, ())
        for split in needed:
            if self._paths[split]:
                self.dataset(split)

    def train_dataloader(self) -> ClipLoader:
        dataset = self.dataset("train")
        weights = dataset.balancing_weights() if self.balanced else None
        replicas, rank = self._processes()
        batches = TrainBatches(
            dataset,
            self.batch_size,
            self.seed,
            weights=weights,
            random_crop=self.random_crop,
            num_replicas=replicas,
            rank=rank,
        )
        return self._loader(dataset, batches)

    def val_dataloader(self) -> ClipLoader | list[ClipLoader]:
        return self._eval_loader("val") if self._paths["val"] else []

    def test_dataloader(self) -> ClipLoader:
        return self._eval_loader("test")

    def _eval_loader(self, split: str) -> ClipLoader:
        replicas, rank = self._processes()
        dataset = self.dataset(split)
        return self._loader(dataset, EvalBatches(dataset, self.batch_size, num_replicas=replicas, rank=rank))

    def _processes(self) -> tuple[int, int]:
        """How many processes share the work, and which of them this one is."""
        if self.trainer is not None:
            return self.trainer.world_size, self.trainer.global_rank
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_world_size(), torch.distributed.get_rank()
        return 1, 0

    def _loader(self, dataset: ClipDataset, batches: TrainBatches | EvalBatches) -> ClipLoader:
        here = 1 if self.trainer is None else self.trainer.world_size // self.trainer.num_nodes
        workers = workers_that_fit(self.num_workers, self.batch_size * dataset.clip_bytes, here)
        return ClipLoader(
            dataset,
            batches,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self.seed),  # else every epoch would draw from the global one
        )
