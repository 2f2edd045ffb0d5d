"""dcls-inspect."""

from __future__ import annotations

from pathlib import Path

from audioset_dcls.commands.parser import create_parser, extra
from preprocessing.terminal import printable, show


def main() -> None:
    """Pictures of what a checkpoint learned."""
    parser = create_parser(
        "dcls-inspect",
        "Draw a checkpoint's large kernels, where the elements of its DCLS layers sit, and its effective receptive "
        "field, each as a PNG.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a file, a published name or a URL")
    parser.add_argument("recordings", nargs="*", type=Path, metavar="RECORDING", help="for the receptive field")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="(default: <checkpoint>-pictures beside it)")
    parser.add_argument(
        "--grad-cam",
        type=Path,
        metavar="CLIP",
        help="draw where in this recording a class is seen, by Grad-CAM and Threshold-Grad-CAM, and nothing else",
    )
    parser.add_argument("--class", dest="label", metavar="NAME", help="for --grad-cam (default: the likeliest)")
    parser.add_argument(
        "--earlier",
        action="append",
        default=[],
        metavar="CHECKPOINT",
        help="of the same training: draw how positions moved; once for each, in order",
    )
    arguments = parser.parse_intermixed_args()
    with extra("dcls-inspect", "train"):
        from audioset_dcls.inference.grad_cam import write_grad_cam
        from audioset_dcls.inference.inspect import inspect

    output = arguments.output or pictures_folder(Path(arguments.checkpoint))
    try:
        if arguments.grad_cam:
            show(write_grad_cam(arguments.checkpoint, output, arguments.grad_cam, arguments.label))
            return
        for path in inspect(arguments.checkpoint, output, arguments.recordings, arguments.earlier):
            show(path)
    except (ValueError, OSError) as error:
        raise SystemExit(printable(f"dcls-inspect: {error}")) from None


def pictures_folder(checkpoint: Path) -> Path:
    """`<checkpoint>-pictures` beside a file, so that two runs' pictures stay apart; here for a published name."""
    folder = checkpoint.parent if checkpoint.is_file() else Path()
    return folder / f"{checkpoint.stem}-pictures"
