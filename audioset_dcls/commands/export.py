"""dcls-export."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audioset_dcls.commands.parser import USAGE, add_train_data, create_parser, extra, stop
from preprocessing.terminal import show

if TYPE_CHECKING:
    from audioset_dcls.models import AudioTagger

# names in a file's metadata that the export writes
RESERVED = {
    "calibration",
    "format",
    "labels",
    "masked",
    "model",
    "precision",
    "precision_loss",
    "sample_rate",
    "version",
}


def main() -> None:
    """A checkpoint as an ONNX file."""
    parser = create_parser(
        "dcls-export",
        "Export a checkpoint to ONNX: waveform in, scores and embedding out, the log-mel and the labels inside.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a file, a published name or a URL")
    parser.add_argument(
        "target",
        type=Path,
        metavar="TARGET",
        help="the file to write: .onnx to tag with, or .safetensors, a checkpoint of the weights alone to train from",
    )
    parser.add_argument(
        "--precision",
        default="float32",
        choices=("float32", "float16", "int8"),
        help="float16 halves the file, int8 quarters it (default: float32)",
    )
    parser.add_argument(
        "--clips",
        nargs="+",
        default=[],
        metavar="FILE|FOLDER|GLOB",
        help="measure on these recordings what float16 or int8 loses (default: none)",
    )
    parser.add_argument(
        "--calibrate",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE.h5",
        help="fit the scores to these clips, so that 0.5 is as likely as not; mask classes with too few training clips",
    )
    parser.add_argument(
        "--calibration-model",
        metavar="CHECKPOINT",
        help="fit the calibration on this checkpoint's scores, if the other was trained on the calibration clips",
    )
    parser.add_argument(
        "--thresholds",
        type=Path,
        metavar="FILE.csv",
        help="with --calibrate: a file for dcls-tag --thresholds, the score of the highest F1 for each class of "
        "5 clips or more",
    )
    add_train_data(parser, "with --calibrate: which classes had training data (default: the numbers in the checkpoint)")
    parser.add_argument(
        "--metadata",
        type=Path,
        metavar="FILE.yaml",
        help="names and values to store in the file: licence, data, scores, ...",
    )
    parser.add_argument(
        "--push",
        metavar="OWNER/NAME",
        help="upload it to the Hugging Face Hub: TARGET, beside an .onnx file the checkpoint, and a model card",
    )
    arguments = parser.parse_args()
    if arguments.thresholds is not None and not arguments.calibrate:
        parser.error("--thresholds are found on clips: give some with --calibrate")
    export(**vars(arguments))


def export(
    checkpoint: str,
    target: Path,
    precision: str,
    clips: Sequence[str],
    calibrate: Sequence[Path] = (),
    train_data: Sequence[Path] = (),
    calibration_model: str | None = None,
    metadata: Path | None = None,
    thresholds: Path | None = None,
    push: str | None = None,
) -> None:
    """`dcls-export`; leaves by SystemExit with 1 if the checkpoint or a clip cannot be read, or the Hub refuses it."""
    with extra("dcls-export", "train"):
        from audioset_dcls.export import onnx
        from audioset_dcls.models.checkpoint import load_checkpoint, save_checkpoint
    from audioset_dcls.tagging.recordings import find_recordings

    if precision not in onnx.PRECISIONS:
        stop("dcls-export", USAGE, f"precision {precision!r} is unknown; use one of {', '.join(onnx.PRECISIONS)}")
    if target.suffix == ".safetensors" and precision == "int8":
        stop("dcls-export", USAGE, "a checkpoint holds float32 or float16; int8 is for .onnx")
    found = find_recordings(clips)
    if found.problems:
        stop("dcls-export", 1, found.problems[0])
    try:
        facts = {} if metadata is None else read_facts(metadata)
        model = load_checkpoint(checkpoint)
        model.metadata = {**model.metadata, **facts}
        if calibrate:
            judge = None if calibration_model is None else load_checkpoint(calibration_model)
            model = calibrated(model, calibrate, train_data, judge, thresholds)
        if target.suffix == ".safetensors":
            save_checkpoint(target, model, float16=precision == "float16")
            show(f"{target}: {target.stat().st_size / 1e6:.1f} MB, {precision}")
            upload(model, target, push)
            return
        written = onnx.export(model, target, precision, [clip.path for clip in found.recordings])
    except (OSError, ValueError) as error:  # CheckpointError and AudioError are ValueErrors
        stop("dcls-export", 1, str(error))
    show(f"{written.path}: {written.megabytes:.1f} MB, {written.precision}; cropped kernels: {written.kernels}")
    if written.loss is not None:
        loss = written.loss
        show(
            f"difference to float32 over {loss.windows} windows: mean {loss.mean:.2g}, largest {loss.largest:.2g}; "
            f"same best tag in {loss.same_best:.1%}"
        )
    upload(model, target, push)


def upload(model: AudioTagger, target: Path, repository: str | None) -> None:
    """With `--push`: the repository's files on the Hub, and their address. Leaves by SystemExit with 1."""
    if repository is None:
        return
    from audioset_dcls.export.push import push

    try:
        address = push(model, target, repository)
    except OSError as error:
        stop("dcls-export", 1, f"{error}; {target} is written")
    show(f"{repository}: {address}")


def calibrated(
    model: AudioTagger,
    data: Sequence[Path],
    train_data: Sequence[Path],
    judge: AudioTagger | None,
    thresholds: Path | None,
) -> AudioTagger:
    """`calibrate_model`, told of, and the thresholds of highest F1 written. Raises what it raises."""
    from audioset_dcls.export.calibrate import LEAST_CLIPS, LEAST_SOURCES, best_thresholds, calibrate_model

    model = calibrate_model(model, data, train_data, judge)
    before, after = model.metadata["calibration"]["calibration_error"]
    show(
        f"calibrated on {', '.join(map(str, data))}: mean gap of score and share of positives "
        f"{before:.3f}, now {after:.3f}; {len(model.metadata['masked'])} classes with fewer than "
        f"{LEAST_CLIPS} training clips of {LEAST_SOURCES} sources masked"
    )
    if thresholds is not None:
        from audioset_dcls.tagging.selection import write_thresholds

        found = best_thresholds(model, data)
        if not found:
            raise ValueError(f"{', '.join(map(str, data))}: no class has 5 clips, so there is no threshold to write")
        write_thresholds(thresholds, found)
        show(f"{thresholds}: thresholds of {len(found)} classes")
    return model


def read_facts(path: Path) -> dict[str, Any]:
    """What a YAML file tells of a tagger, for its metadata. Raises ValueError for what is no mapping of names."""
    import yaml  # type: ignore[import-untyped]

    try:
        facts = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(facts, dict) or not all(isinstance(name, str) for name in facts):
            raise ValueError("holds no names with values")
        json.dumps(facts)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, TypeError) as error:
        reason = " ".join((getattr(error, "strerror", None) or str(error)).split())
        raise ValueError(f"{path}: cannot be read as facts about a tagger: {reason}") from error
    if taken := RESERVED & facts.keys():
        raise ValueError(f"{path}: {', '.join(sorted(taken))}: the export itself writes that; choose another name")
    return facts
