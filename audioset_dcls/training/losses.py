"""The loss: labels, a teacher's scores, a teacher's embedding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Teacher scores are clamped this far from 0 and 1: float16 rounds to both, whose logits are infinite.
TEACHER_MARGIN = 1e-4


@dataclass(frozen=True)
class Distillation:
    """What is learned from a teacher's scores, "teacher" (B, C) in [0, 1], and embeddings, "embedding" (B, D)."""

    weight: float = 0.0
    """Of the teacher's part of the loss, from 0 to 1."""
    temperature: float = 1.0
    """Divides both logits in that part."""
    soft_labels: bool = False
    """target = max(label, teacher score)."""
    feature_weight: float = 0.0
    """Of the mean squared error between the mapped and the teacher's standardised embedding."""


def tagging_loss(
    logits: Tensor, target: Tensor, teacher: Tensor | None = None, distill: Distillation | None = None
) -> Tensor:
    """Binary cross-entropy, the mean over clips and classes, with the teacher's part (Hinton et al. 2015).

    Shape: (B, C) three times -> scalar.
    """
    loss = F.binary_cross_entropy_with_logits(logits, target)
    if teacher is None or distill is None:
        return loss
    soft = torch.logit(teacher, eps=TEACHER_MARGIN) / distill.temperature
    # T² keeps the gradients' size independent of the temperature
    distilled = F.binary_cross_entropy_with_logits(logits / distill.temperature, soft.sigmoid())
    return (1 - distill.weight) * loss + distill.weight * distill.temperature**2 * distilled


class EmbeddingMatcher(nn.Module):
    """A linear map from the model's pooled embedding to the teacher's, and how far it is off.

    The teacher's features are standardised by their mean and deviation over all that training has seen so far, which
    are kept in the checkpoint; to each deviation a tenth of their mean is added, so that features that hardly ever
    move do not count like the others.

    Shape: (B, num_features), (B, embedding_size) -> scalar, the mean squared error.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, num_features: int, embedding_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, embedding_size)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(embedding_size))
        self.register_buffer("squares", torch.zeros(embedding_size))  # sum of squared distances from the mean

    def forward(self, pooled: Tensor, embedding: Tensor) -> Tensor:
        deviation = (self.squares / self.count).sqrt()
        standardised = (embedding - self.mean) / (deviation + 0.1 * deviation.mean())
        return (self.linear(pooled) - standardised).square().mean()

    @torch.no_grad()
    def observe(self, embedding: Tensor) -> None:
        """Chan's update of mean and squares by the embeddings of a batch."""
        batch, seen = len(embedding), self.count.clone()
        self.count += batch
        mean = embedding.mean(0)
        shift = mean - self.mean
        self.mean += shift * (batch / self.count)
        self.squares += (embedding - mean).square().sum(0) + shift.square() * (seen * batch / self.count)
