"""The training step: from waveforms to loss on the training device, every random number a function of the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from audioset_dcls.dcls import dcls_layers
from audioset_dcls.evaluation.metrics import mean_average_precision
from audioset_dcls.models import AudioTagger, checkpoint_header
from audioset_dcls.training.losses import Distillation, EmbeddingMatcher, tagging_loss
from audioset_dcls.training.optimizer import Schedule, create_optimizer, warmup_cosine
from preprocessing.augment import Augment, smooth_labels
from preprocessing.clips.layout import INT16_SCALE
from preprocessing.log_mel import LogMel

NOT_FINITE = """the loss became {loss} at step {step}. The last checkpoint is from before.
Things to try, likeliest first:
  a lower learning rate (optimizer.lr={lr:g}), or a longer warm-up (warmup_epochs)
  clipping the gradient: trainer.gradient_clip_val=1.0
  full precision: trainer.precision=32-true
  audio that holds NaN: dcls-prepare leaves such clips out"""


class TaggingModule(L.LightningModule):
    """Trains an `AudioTagger` on batches {"waveform": int16 (B, samples), "target": (B, C), "clip": (B,)}.

    A batch with "teacher": (B, C) scores in [0, 1] is distilled from as well, and one with "embedding": (B, D) has the
    teacher's pooled embedding matched by a linear map of the model's. That map is no part of the model.

    Args:
        labels: display names of the C classes, kept in the checkpoints.
        optimizer: arguments of `create_optimizer`.
        schedule: of the learning rate.
        augment: the settings of augmentation, mixup and label smoothing; the reference's by default.
        distill: what is learned from a teacher.
        embedding_size: D, the width of its embedding.
        repulsion: weight of the DCLS layers' repulsive loss (thesis 3.9).
        freeze_batch_norm: batch norms keep the statistics that the model came with; their scales and biases still
            learn.
        compile: run the model through torch.compile.
        seed: with the epoch, the batch and the process it gives each step's random numbers, so that a resumed run, and
            one on more processes, draw the same ones.
    """

    def __init__(
        self,
        model: AudioTagger,
        labels: Sequence[str],
        optimizer: Mapping[str, Any],
        schedule: Schedule,
        augment: Augment | None = None,
        distill: Distillation | None = None,
        embedding_size: int = 0,
        repulsion: float = 0.0,
        freeze_batch_norm: bool = False,
        compile: bool = False,
        seed: int = 0,
        log_every_n_steps: int = 50,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if model.config["num_classes"] != len(labels):
            raise ValueError(
                f"the model has {model.config['num_classes']} classes, the data {len(labels)}; "
                f"set model.num_classes={len(labels)}"
            )
        self.model = model
        self.log_mel = LogMel(model.log_mel_settings)
        self.augment = augment or Augment()
        self.labels = list(labels)
        self.optimizer_arguments = dict(optimizer)
        self.schedule, self.distill, self.repulsion = schedule, distill or Distillation(), repulsion
        if self.distill.feature_weight and not embedding_size:
            raise ValueError(
                "distill.feature_weight needs a teacher's embedding: data.teacher=stored with files that have it, or "
                "teacher=FILE, whose second output it is"
            )
        self.freeze_batch_norm = freeze_batch_norm
        self.matcher = EmbeddingMatcher(model.num_features, embedding_size) if self.distill.feature_weight else None
        self.seed, self.log_every_n_steps = seed, log_every_n_steps
        self.metadata = dict(metadata or {})
        self.map: float | None = None
        self._validated: list[tuple[Tensor, Tensor, Tensor]] = []
        # since the last logged row: loss, its part that matches embeddings before it is weighted, number of batches
        self._sums = torch.zeros(3, dtype=torch.float64)
        self.embed = self.model.embed
        if compile:
            self.model.compile()  # in place: the names in the state dict stay
            self.embed = torch.compile(self.model.embed)  # of which the model's forward is no part

    # ---- one step

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.freeze_batch_norm:
            for module in self.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        generator = self._seed_step(batch_idx)
        waveform = batch["waveform"].to(torch.float32) / INT16_SCALE
        log_mel, mixture = self.augment(waveform, self.log_mel, generator)
        target = smooth_labels(batch["target"], self.augment.label_smoothing)
        if self.distill.soft_labels:
            target = torch.maximum(target, batch["teacher"].to(torch.float32))
        teacher = mixture(batch["teacher"].to(torch.float32)) if self.distill.weight else None
        if self.matcher is None:
            loss = self.loss(self.model(log_mel).float(), mixture(target), teacher)
            mismatch = torch.zeros_like(loss)
        else:
            pooled = self.embed(log_mel).float()
            loss = self.loss(self.model.get_classifier()(pooled), mixture(target), teacher)
            embedding = batch["embedding"].to(torch.float32)
            self.matcher.observe(embedding)
            mismatch = self.matcher(pooled, mixture(embedding))
            loss = loss + self.distill.feature_weight * mismatch
        self._sums += torch.stack([loss.detach(), mismatch.detach(), torch.ones_like(mismatch)]).double()
        return loss

    def loss(self, logits: Tensor, target: Tensor, teacher: Tensor | None = None) -> Tensor:
        """Binary cross-entropy per class and clip, the mean of both, with its teacher's part and the repulsion."""
        loss = tagging_loss(logits, target, teacher, self.distill)
        if self.repulsion:
            loss = loss + self.repulsion * sum(layer.repulsive_loss() for layer in dcls_layers(self.model))
        return loss

    def _seed_step(self, batch_idx: int) -> torch.Generator:
        """Seed torch (drop path) and a generator (augmentation) from (seed, epoch, global number of the batch).

        The generator is on the CPU: the same numbers on any device.
        """
        number = batch_idx * self.trainer.world_size + self.global_rank
        state = np.random.SeedSequence((self.seed, self.current_epoch, number)).generate_state(2, np.uint64) >> 1
        torch.manual_seed(int(state[0]))
        return torch.Generator().manual_seed(int(state[1]))

    # ---- the optimiser

    def configure_optimizers(self) -> Any:
        optimizer = create_optimizer(self, **self.optimizer_arguments)
        schedule = warmup_cosine(optimizer, self.schedule, self.optimizer_arguments["lr"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        for layer in dcls_layers(self.model):
            layer.clamp_positions()
        step = self.global_step + 1  # Lightning counts this one afterwards
        if step % self.log_every_n_steps == 0 or self.trainer.is_last_batch:
            self.log_row(step, self.mean_losses(step) | {"lr": self.trainer.optimizers[0].param_groups[0]["lr"]})

    def mean_losses(self, step: int) -> dict[str, float]:
        """Means since the last call over all processes. Raises FloatingPointError if the loss is not finite."""
        sums = self._sums
        if self.trainer.world_size > 1:
            dist.all_reduce(sums)
        loss, mismatch = (sums[:2] / sums[2]).tolist()
        self._sums = torch.zeros_like(sums)
        if not np.isfinite(loss):
            raise FloatingPointError(NOT_FINITE.format(loss=loss, step=step, lr=self.optimizer_arguments["lr"] / 4))
        return {"train/loss": loss} | ({"train/embedding": mismatch} if self.matcher is not None else {})

    def log_row(self, step: int, row: Mapping[str, float]) -> None:
        """Write to the loggers at once: Lightning's own `log` would write after the checkpoint of the same step."""
        for logger in self.loggers:
            logger.log_metrics({"epoch": self.current_epoch, **row}, step=step)

    # ---- validation

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        waveform = batch["waveform"].to(torch.float32) / INT16_SCALE
        if "length" in batch:  # zeros behind a short clip would dilute what is heard in it
            logits = torch.empty(batch["target"].shape, device=waveform.device)
            for length in batch["length"].unique().tolist():
                alike = batch["length"] == length
                logits[alike] = self.model(self.log_mel(waveform[alike, :length])).float()
        else:
            logits = self.model(self.log_mel(waveform))
        scores = logits.float().sigmoid()
        self._validated.append((batch["clip"].cpu(), batch["target"].cpu(), scores.cpu()))

    def on_validation_epoch_end(self) -> None:
        """mAP over all clips of all processes, each clip once."""
        clip, target, scores = (torch.cat(parts).numpy() for parts in zip(*self._validated, strict=True))
        self._validated.clear()
        if self.trainer.world_size > 1:
            shares: list[Any] = [None] * self.trainer.world_size
            dist.all_gather_object(shares, (clip, target, scores))
            clip, target, scores = (np.concatenate(parts) for parts in zip(*shares, strict=True))
        first = np.unique(clip, return_index=True)[1]
        self.map = mean_average_precision(target[first], scores[first])
        self.log("val/map", self.map, prog_bar=True, logger=False, sync_dist=True)
        if not self.trainer.sanity_checking:
            self.log_row(self.global_step, {"val/map": self.map})

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What `load_checkpoint` needs to rebuild the model."""
        metadata = {**self.metadata, "epoch": self.current_epoch, "step": self.global_step, "val_map": self.map}
        checkpoint["audioset_dcls"] = checkpoint_header(self.model, self.labels, metadata)

    def on_fit_start(self) -> None:
        self._sums = self._sums.to(self.device)
