"""Targets and scores with ties, for tests of the metrics and of their bootstrap."""

from __future__ import annotations

import numpy as np


def random_data(clips: int, classes: int, seed: int, decimals: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Few decimals make many ties, within and between positives and negatives."""
    generator = np.random.default_rng(seed)
    targets = generator.random((clips, classes)) < generator.uniform(0.01, 0.4, classes)
    targets[0], targets[1] = True, False
    return targets, np.round(generator.normal(targets * generator.uniform(0, 2, classes)), decimals).astype(np.float32)
