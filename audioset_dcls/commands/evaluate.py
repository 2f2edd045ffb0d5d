"""dcls-eval."""

from __future__ import annotations

from pathlib import Path

from audioset_dcls.commands.parser import add_train_data, create_parser, extra


def main() -> None:
    """Score a checkpoint, or compare runs over seeds."""
    parser = create_parser(
        "dcls-eval",
        "mAP, specific top 1, 3 and 5, AUC, d', lwlrap of whole clips and of their first 5, 2 and 1 s: a summary, "
        "JSON, CSV and an HTML report. With --runs: mean and deviation over seeds and paired differences with 95 % "
        "intervals, as Markdown, CSV and plots. Started by torchrun, the processes share the clips.",
        epilog="exit status: 0 done, 1 failed or some runs left out, 2 usage, 130 interrupted",
    )
    parser.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="a file, .onnx too, a name or a URL")
    parser.add_argument("--data", type=Path, metavar="FILE.h5", help="the clips to score, as dcls-prepare writes them")
    parser.add_argument(
        "--runs",
        type=Path,
        metavar="DIR",
        help="compare the runs <experiment>/seed_<n> in it, with --data after scoring the best.ckpt of each",
    )
    parser.add_argument(
        "--baseline",
        nargs="+",
        default=(),
        metavar="EXPERIMENT",
        help="with --runs: baselines. Each experiment is compared with the one whose name is its longest prefix, or "
        "with the first (default: each two are compared)",
    )
    add_train_data(
        parser, "set the AP against the number of training clips there (default: the numbers in the checkpoint)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="(default: <checkpoint>-on-<data>, or <runs>/comparison)"
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="clips at once (default: 32)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes that read (default: 2)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="(default: cuda if there is one)")
    arguments = parser.parse_args()
    if (arguments.checkpoint is None) == (arguments.runs is None):
        parser.error("give either a CHECKPOINT or --runs DIR")
    if arguments.runs is None and arguments.data is None:
        parser.error("give the clips to score: --data FILE.h5")
    if arguments.runs is None and arguments.baseline:
        parser.error("--baseline belongs to --runs")
    if arguments.runs is not None and arguments.train_data:
        parser.error("--train-data belongs to a CHECKPOINT, not to --runs")
    if arguments.batch_size < 1 or arguments.workers < 0:
        parser.error("--batch-size must be at least 1, --workers at least 0")
    with extra("dcls-eval", "train"):
        from audioset_dcls.inference.evaluate import command

    raise SystemExit(command(**vars(arguments)))
