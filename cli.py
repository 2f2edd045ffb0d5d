"""The console commands: parse, call, print. Each imports what it needs inside, so that `--help` answers at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer


def train() -> None:
    """dcls-train: a training run (Hydra: `dcls-train -m seed=0,1,2 experiment=...`); exit status 1 where one failed."""
    import sys

    import hydra

    from audioset_dcls.folders import data_folder

    failed = []

    @hydra.main(version_base="1.3", config_path=str(data_folder("configs")), config_name="train")
    def run(config: Any) -> float:
        from audioset_dcls.training.run import launch

        try:
            return launch(config)
        except (ValueError, OSError, FloatingPointError) as error:  # the other runs of a sweep go on
            print(f"dcls-train: {error}", file=sys.stderr)
            failed.append(error)
            return float("nan")

    run()
    sys.exit(bool(failed))


def tag() -> None:
    """dcls-tag: what sounds in recordings."""
    _run(_tag)


def _tag(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE|FOLDER|GLOB|-", help="Recordings; folders recursively; - is stdin."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Tags a recording, or a window, at most.")] = 5,
    threshold: Annotated[float, typer.Option(help="Lowest score shown; an event lasts while above half of it.")] = 0.2,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH", help="An .onnx file, a checkpoint or a published name.", show_default="embedded"
        ),
    ] = None,
    window: Annotated[float, typer.Option(metavar="SECONDS", help="Longer recordings are cut in windows.")] = 10.0,
    hop: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="From window to window.", show_default="half the window: 5")
    ] = None,
    timeline: Annotated[
        bool, typer.Option("--timeline", help="Show events, with start and end, instead of tags.")
    ] = False,
    formats: Annotated[
        str, typer.Option("--format", metavar="NAME,...", help="table, json, jsonl, csv, audacity, raven, parquet.")
    ] = "table",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Write files there.", show_default="stdout")
    ] = None,
    separate: Annotated[
        bool, typer.Option("--separate", help="With -o: one file a recording in every format.")
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="TXT", help="Only these classes: names or MIDs, one a line.", show_default="all"),
    ] = None,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="With -o: (windows, D) as .npy for each recording.")
    ] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Threads.", show_default="one a core")] = None,
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Where the model runs.")] = "cpu",
    resume: Annotated[bool, typer.Option(help="With -o: continue a run that was cut short.")] = True,
    plot: Annotated[bool, typer.Option("--plot", help="A PNG for each recording: waveform, log-mel, tags.")] = False,
    list_models: Annotated[bool, typer.Option("--list-models", help="Show the names that --model takes.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Nothing on stderr but errors.")] = False,
) -> None:
    """Tag recordings: which of AudioSet's 527 sounds are in them, and with --timeline when.

    Scores are independent probabilities. Exit status: 0 all tagged, 1 some failed, 2 usage.
    """
    from audioset_dcls.tagging import command

    command.main(
        inputs or [],
        options={"top": top, "threshold": threshold, "window": window, "hop": window / 2 if hop is None else hop},
        outputs={
            "formats": tuple(formats.split(",")),
            "folder": output,
            "separate": separate,
            "timeline": timeline,
            "embeddings": embeddings,
            "plot": plot,
        },
        model=model,
        device=device,
        jobs=jobs,
        labels=labels,
        resume=resume,
        quiet=quiet,
        list_models=list_models,
    )


def export() -> None:
    """dcls-export: a checkpoint as an ONNX file."""
    _run(_export)


def _export(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint, a published name or a URL.")],
    target: Annotated[Path, typer.Argument(metavar="TAGGER.ONNX", help="The file to write.")],
    precision: Annotated[
        str, typer.Option(help="float32, float16 (half the size) or int8 (needs --clips).")
    ] = "float32",
    clips: Annotated[
        list[str] | None, typer.Option(metavar="FILE|FOLDER|GLOB", help="Calibrate int8 and measure the loss on these.")
    ] = None,
) -> None:
    """Export a checkpoint to ONNX: waveform in; scores and embedding out; the log-mel and the labels inside."""
    from audioset_dcls.tagging.command import export

    export(checkpoint, target, precision, clips or [])


prepare = typer.Typer(
    help="dcls-prepare: sounds and their labels as one HDF5 file, to train and evaluate on. Run again after a stop, it "
    "goes on where it was.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Output = Annotated[Path, typer.Option("-o", "--output", metavar="FILE.h5", help="The HDF5 file to make.")]
_Workers = Annotated[
    int | None, typer.Option("-j", "--workers", min=1, help="Processes that decode.", show_default="one a core")
]
_Compress = Annotated[bool, typer.Option("--compress", help="Lossless gzip: a third of the size, slower to read.")]


@prepare.command("audioset")
def prepare_audioset(
    audio: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER|TAR|PARQUET",
            help="Where the audio lies: folders are searched; files are named by video id, with or without PANNs' Y.",
        ),
    ],
    output: _Output,
    segments: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="The split's segment list; Parquet files can do without.", show_default=False),
    ] = None,
    workers: _Workers = None,
    compress: _Compress = False,
) -> None:
    """A split of AudioSet, from its segment list and the audio.

    Clips that are missing, unreadable or double are left out and listed in FILE.left_out.csv.
    """
    from preprocessing.audioset import audioset_collection

    _prepare(lambda: audioset_collection(audio, segments), output, workers, compress)


@prepare.command("folder")
def prepare_folder(
    place: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER|CSV",
            help="Sub-folders named by class, or a CSV file,labels: paths relative to it, labels split by ;",
        ),
    ],
    output: _Output,
    labels_from: Annotated[
        Path | None,
        typer.Option(metavar="FILE.h5", help="Take its classes, e.g. the train file's for its test file."),
    ] = None,
    workers: _Workers = None,
    compress: _Compress = False,
) -> None:
    """Your own sounds with your own classes, to fine-tune on."""
    from preprocessing.audioset import folder_collection
    from preprocessing.hdf5 import ClipFile

    _prepare(
        lambda: folder_collection(place, ClipFile(labels_from).labels if labels_from else None),
        output,
        workers,
        compress,
    )


def _prepare(collection: Callable[[], Any], output: Path, workers: int | None, compress: bool) -> None:
    import sys

    from preprocessing.audioset import prepare
    from preprocessing.hdf5 import ClipFileError

    try:
        made = prepare(collection(), output, workers=workers, compression="gzip" if compress else None)
    except ClipFileError as error:
        print(f"dcls-prepare: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print(f"dcls-prepare: stopped; what is done is kept beside {output}: run the same to go on", file=sys.stderr)
        raise typer.Exit(130) from None
    left_out = ", ".join(f"{count} {reason}" for reason, count in made.left_out.items() if count)
    print(f"{made.path}: {made.clip_count} clips, SHA-256 of their ids {made.clip_ids_sha256}")
    print(f"left out: {left_out}; see {made.left_out_csv}" if left_out else "left out: none")


def _run(command: Callable[..., None]) -> None:
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(context_settings={"help_option_names": ["-h", "--help"]})(command)
    app()
