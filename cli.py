"""The console commands: parse, call, print. Each imports what it needs inside, so that `--help` answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def train() -> None:
    """dcls-train: a training run (Hydra: `dcls-train -m seed=0,1,2 experiment=...`); exit status 1 where one failed."""
    import sys

    from audioset_dcls.folders import data_folder

    if {"-h", "--help"} & set(sys.argv[1:]):  # Hydra's own takes a second; `--cfg job` prints what it composes
        sys.stdout.write(_train_help(data_folder("configs")))
        return
    import hydra

    failed = []

    @hydra.main(version_base="1.3", config_path=str(data_folder("configs")), config_name="train")
    def run(config: Any) -> float:
        from audioset_dcls.training.run import launch
        from preprocessing.terminal import show

        try:
            return launch(config)
        except (ValueError, OSError, FloatingPointError) as error:  # the other runs of a sweep go on
            show(f"dcls-train: {error}", sys.stderr)
            failed.append(error)
            return float("nan")

    run()
    sys.exit(bool(failed))


def _train_help(configs: Path) -> str:
    lines = [
        "usage: dcls-train [-m] [experiment=NAME] [GROUP=NAME] [KEY=VALUE] [--cfg job] [--hydra-help]\n",
        "-m runs every combination of the values listed: dcls-train -m seed=0,1,2 experiment=convnext_tiny_dcls",
        "A run that was stopped goes on with the same command. Exit status 1 where a run failed.\n",
    ]
    for group in sorted(path for path in configs.iterdir() if path.is_dir() and path.name != "hydra"):
        names = sorted(path.relative_to(group).with_suffix("").as_posix() for path in group.rglob("*.yaml"))
        lines.append(f"{group.name}: {', '.join(names)}")
    return "\n".join(lines) + "\n\n" + (configs / "train.yaml").read_text(encoding="utf-8")


def tag() -> None:
    """dcls-tag: what sounds in recordings."""
    parser = _parser(
        "dcls-tag",
        "Tag recordings: which of AudioSet's 527 sounds are in them, and with --timeline when. "
        "Scores are independent probabilities.",
        epilog="exit status: 0 all tagged, 1 some failed (the others are tagged) or lack sound of unknown length (then "
        "later times are too early), 2 usage, 130 interrupted",
    )
    parser.add_argument("inputs", nargs="*", metavar="FILE|FOLDER|GLOB|-", help="folders recursively; - is stdin")
    pick = parser.add_argument_group("what to show")
    pick.add_argument("--top", type=int, default=5, metavar="N", help="at most so many tags a recording (default: 5)")
    pick.add_argument(
        "--threshold", type=float, default=0.2, metavar="SCORE", help="lowest score of a tag or event (default: 0.2)"
    )
    pick.add_argument("--labels", type=Path, metavar="TXT", help="only the classes named there (default: all)")
    pick.add_argument("--timeline", action="store_true", help="events, with start and end, not tags (default: off)")
    write = parser.add_argument_group("how to write it")
    write.add_argument(
        "--format",
        default="table",
        metavar="NAME,...",
        help="table, json, jsonl, csv, audacity, raven, parquet; several with -o (default: table)",
    )
    write.add_argument("-o", "--output", type=Path, metavar="DIR", help="write files there (default: to stdout)")
    write.add_argument(
        "--separate", action="store_true", help="with -o: a file for each recording in every format (default: off)"
    )
    write.add_argument("--embeddings", action="store_true", help="with -o: (windows, D) as .npy (default: off)")
    write.add_argument("--plot", action="store_true", help="a PNG of waveform, log-mel and tags (default: off)")
    write.add_argument("--quiet", action="store_true", help="nothing but errors on stderr (default: off)")
    work = parser.add_argument_group("how to work")
    work.add_argument("--model", metavar="NAME|PATH", help=".onnx file, checkpoint or name (default: the embedded one)")
    work.add_argument("--list-models", action="store_true", help="show the names that --model takes")
    work.add_argument(
        "--window",
        type=float,
        metavar="S",
        help="cut longer recordings so (default: as the tagger was trained, the embedded one on 2.56, others on 10)",
    )
    work.add_argument(
        "--hop",
        type=float,
        metavar="S",
        help="from window to window (default: half the window, the embedded tagger's own window whole)",
    )
    work.add_argument(
        "--channel",
        default="mix",
        metavar="NAME",
        help="mix, left, right, a number from 1, or each: every channel as a recording of its own (default: mix)",
    )
    work.add_argument("--jobs", type=int, metavar="N", help="threads (default: one a core)")
    work.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where the model runs (default: cpu)")
    work.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with -o: continue a run that was cut short (default: --resume)",
    )
    arguments = vars(parser.parse_args())
    from audioset_dcls.tagging.command import tag

    tag(**arguments)


def evaluate() -> None:
    """dcls-eval: score a checkpoint, or compare runs over seeds."""
    parser = _parser(
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
        "--against",
        nargs="+",
        default=(),
        metavar="EXPERIMENT",
        help="with --runs: differences from these, of each from the longest that its name begins with, else from the "
        "first (default: of each two)",
    )
    _add_train_data(
        parser, "set the AP against the number of training clips there (default: the numbers in the checkpoint)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="(default: <checkpoint>-on-<data>, or <runs>/comparison)"
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="clips at once (default: 32)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes that read (default: 2)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="(default: cuda where there is one)")
    arguments = parser.parse_args()
    if (arguments.checkpoint is None) == (arguments.runs is None):
        parser.error("give either a CHECKPOINT or --runs DIR")
    if arguments.runs is None and arguments.data is None:
        parser.error("give the clips to score: --data FILE.h5")
    if arguments.runs is None and arguments.against:
        parser.error("--against belongs to --runs")
    if arguments.runs is not None and arguments.train_data:
        parser.error("--train-data belongs to a CHECKPOINT, not to --runs")
    if arguments.batch_size < 1 or arguments.workers < 0:
        parser.error("--batch-size must be at least 1, --workers at least 0")
    from audioset_dcls.training.evaluate import command

    raise SystemExit(command(**vars(arguments)))


def export() -> None:
    """dcls-export: a checkpoint as an ONNX file."""
    parser = _parser(
        "dcls-export",
        "Export a checkpoint to ONNX: waveform in, scores and embedding out, the log-mel and the labels inside.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a file, a published name or a URL")
    parser.add_argument("target", type=Path, metavar="TAGGER.onnx", help="the file to write")
    parser.add_argument(
        "--precision",
        default="float32",
        choices=("float32", "float16", "int8"),
        help="float16 halves the file, int8 quarters it and needs --clips (default: float32)",
    )
    parser.add_argument(
        "--clips",
        nargs="+",
        default=[],
        metavar="FILE|FOLDER|GLOB",
        help="calibrate int8 and measure the loss on these recordings (default: none)",
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
        "--calibrate-by",
        metavar="CHECKPOINT",
        help="fit this one's scores instead: the one that the training began with, where it has heard these clips",
    )
    _add_train_data(
        parser, "with --calibrate: which classes had training data (default: the numbers in the checkpoint)"
    )
    parser.add_argument(
        "--about",
        type=Path,
        metavar="FILE.yaml",
        help="what the file shall tell of the tagger: licence, data, scores, ... as names and values",
    )
    arguments = vars(parser.parse_args())
    from audioset_dcls.tagging.command import export

    export(**arguments)


def inspect() -> None:
    """dcls-inspect: pictures of what a checkpoint learned."""
    parser = _parser(
        "dcls-inspect",
        "Draw a checkpoint's large kernels, where the elements of its DCLS layers sit, and its effective receptive "
        "field, each as a PNG.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a file, a published name or a URL")
    parser.add_argument("recordings", nargs="*", type=Path, metavar="RECORDING", help="for the receptive field")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="(default: <checkpoint>-pictures)")
    arguments = parser.parse_intermixed_args()
    from audioset_dcls.training.pictures import inspect
    from preprocessing.terminal import printable, show

    output = arguments.output or Path(f"{Path(arguments.checkpoint).with_suffix('').name}-pictures")
    try:
        for path in inspect(arguments.checkpoint, output, arguments.recordings):
            show(path)
    except (ValueError, OSError) as error:
        raise SystemExit(printable(f"dcls-inspect: {error}")) from None


def prepare() -> None:
    """dcls-prepare: sounds and their labels as HDF5 files."""
    parser = _parser(
        "dcls-prepare",
        "Sounds and their labels as one HDF5 file, to train and evaluate on. Run again after a stop, it goes on where "
        "it was.",
        epilog="exit status: 0 done, 1 failed, 2 usage, 130 interrupted",
    )
    kinds = parser.add_subparsers(metavar="KIND", required=True)
    audioset = _kind(
        kinds,
        "audioset",
        "a split of AudioSet, from its segment list and the audio",
        "Clips that are missing, unreadable or double are left out and listed in FILE.left_out.csv.",
    )
    audioset.add_argument(
        "audio",
        nargs="+",
        type=Path,
        metavar="FOLDER|TAR|PARQUET",
        help="where the audio lies: folders are searched; files are named by video id, with or without PANNs' Y",
    )
    audioset.add_argument(
        "--segments", type=Path, metavar="CSV", help="the split's segment list; Parquet files can do without"
    )
    folder = _kind(
        kinds,
        "folder",
        "your own sounds with your own classes, to fine-tune on",
        "Files of over 10 s are cut into clips of 10 s.",
    )
    folder.add_argument(
        "place",
        type=Path,
        metavar="FOLDER|CSV",
        help="sub-folders named by class, or a CSV file,labels: paths relative to it, labels split by ;",
    )
    folder.add_argument(
        "--labels-from", type=Path, metavar="FILE.h5", help="take its classes, e.g. the train file's for its test file"
    )
    for kind in (audioset, folder):
        kind.add_argument("-o", "--output", required=True, type=Path, metavar="FILE.h5", help="the HDF5 file to make")
        kind.add_argument("-j", "--workers", type=int, metavar="N", help="processes that decode (default: one a core)")
        kind.add_argument("--compress", action="store_true", help="lossless gzip: a third of the size, slower to read")
    open_sounds = _kind(
        kinds,
        "open-sounds",
        "real sounds with free licences, which the embedded tagger is trained on",
        "Recordings in Debian packages and in public git repositories, split by source into train, validation and test "
        "files; unlabelled recordings; synthetic sounds if fluidsynth, espeak-ng and flite are installed. The lists "
        "are in a checkout, not in the wheel.",
    )
    open_sounds.add_argument("output", type=Path, metavar="FOLDER", help="where the HDF5 files go")
    open_sounds.add_argument(
        "--packages",
        type=Path,
        metavar="FOLDER",
        help="take packages from here (.deb files or unpacked), the others from apt",
    )
    open_sounds.add_argument(
        "--tars",
        type=Path,
        metavar="FOLDER",
        help="take the repositories' recordings from the tars in this folder, not by git",
    )
    open_sounds.add_argument(
        "--repositories",
        default="https://github.com",
        metavar="URL",
        help="git fetches from URL/OWNER/NAME (default: https://github.com)",
    )
    open_sounds.add_argument("--core", action="store_true", help="packages of 2.3 GB in place of all 9.1")
    audioset.set_defaults(make=_prepare_audioset)
    folder.set_defaults(make=_prepare_folder)
    open_sounds.set_defaults(make=_prepare_open_sounds)
    arguments = vars(parser.parse_args())
    workers = arguments.get("workers")
    if workers is not None and workers < 1:
        parser.error("--workers must be at least 1")
    import sys

    from preprocessing.corpora.open_sounds.lists import OpenSoundsError
    from preprocessing.hdf5 import ClipFileError
    from preprocessing.terminal import printable, show

    make = arguments.pop("make")
    try:
        make(**arguments)
    except (ClipFileError, OpenSoundsError) as error:
        raise SystemExit(printable(f"dcls-prepare: {error}")) from None
    except OSError as error:  # no permission, or a disk that filled before anything was begun
        message = f"dcls-prepare: {error.filename or arguments['output']}: {error.strerror or error}"
        raise SystemExit(printable(message)) from None
    except KeyboardInterrupt:
        show(f"dcls-prepare: stopped; what is done of {arguments['output']} is kept: run the same to go on", sys.stderr)
        raise SystemExit(130) from None


def _prepare_audioset(audio: list[Path], segments: Path | None, **options: Any) -> None:
    from preprocessing.audioset import audioset_collection

    _prepare(audioset_collection(audio, segments), **options)


def _prepare_folder(place: Path, labels_from: Path | None, **options: Any) -> None:
    from preprocessing.audioset import folder_collection
    from preprocessing.hdf5 import ClipFile

    _prepare(folder_collection(place, ClipFile(labels_from).labels if labels_from else None), **options)


def _prepare(collection: Any, output: Path, workers: int | None, compress: bool) -> None:
    import sys

    from preprocessing.audioset import prepare
    from preprocessing.terminal import show

    for warning in collection.warnings:
        show(f"dcls-prepare: {warning}", sys.stderr)
    made = prepare(collection, output, workers=workers, compression="gzip" if compress else None)
    lines, warnings = made.lines()
    for line in lines:
        show(line)
    for warning in warnings:
        show(f"dcls-prepare: {warning}", sys.stderr)


def _prepare_open_sounds(output: Path, packages: Path | None, tars: Path | None, repositories: str, core: bool) -> None:
    from preprocessing.corpora.open_sounds import prepare_open_sounds
    from preprocessing.terminal import show

    made = prepare_open_sounds(output, packages, tars, core=core, repositories_url=repositories)
    for name, count in made.clips.items():
        show(f"{output / name}.h5: {count} clips")
    for line in made.left_out:
        show(f"left out: {line}")


def _parser(command: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    from preprocessing.terminal import Parser

    return Parser(command, description=description, epilog=epilog)


def _add_train_data(parser: argparse.ArgumentParser, use: str) -> None:
    parser.add_argument("--train-data", type=Path, nargs="+", default=[], metavar="FILE.h5", help=use)


def _kind(kinds: Any, name: str, summary: str, more: str = "") -> argparse.ArgumentParser:
    description = f"{summary[0].upper()}{summary[1:]}. {more}".strip()
    parser: argparse.ArgumentParser = kinds.add_parser(name, help=summary, description=description)
    return parser
