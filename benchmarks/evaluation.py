"""Macro mAP of an evaluation set as large as AudioSet's, ours against scikit-learn's, in one run.

python benchmarks/evaluation.py [--clips 20000] [--classes 523]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from sklearn.metrics import average_precision_score

from audioset_dcls.evaluation.metrics import mean_average_precision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=20_000)
    parser.add_argument("--classes", type=int, default=523)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    targets = rng.random((options.clips, options.classes)) < 0.005
    targets[0] = True  # every class has a positive
    scores = (rng.normal(size=targets.shape) + 2 * targets).astype(np.float32)
    began = time.perf_counter()
    ours = mean_average_precision(targets, scores)
    middle = time.perf_counter()
    reference = average_precision_score(targets, scores)
    took, reference_took = middle - began, time.perf_counter() - middle
    print(f"mAP of {options.clips} x {options.classes}: {took:.2f} s, scikit-learn {reference_took:.2f} s,", end=" ")
    print(f"{reference_took / took:.0f}x, difference {abs(ours - reference):.0e}")


if __name__ == "__main__":
    main()
