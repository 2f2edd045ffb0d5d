"""What `dcls-tag` and `dcls-export` do with their options: names to objects, errors to exit statuses."""

from __future__ import annotations

import difflib
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from audioset_dcls.tagging.model import EMBEDDED, ModelError, embedded_tagger
from preprocessing.terminal import show

if TYPE_CHECKING:
    from preprocessing.decoder_process import DecoderPool

USAGE = 2
_INTERRUPTED = 128
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


def tag(
    inputs: Sequence[str],
    top: int,
    threshold: float,
    labels: Path | None,
    timeline: bool,
    format: str,
    output: Path | None,
    separate: bool,
    embeddings: bool,
    plot: bool,
    quiet: bool,
    model: str | None,
    list_models: bool,
    window: float | None,
    hop: float | None,
    channel: str,
    jobs: int | None,
    device: str,
    resume: bool,
) -> None:
    """`dcls-tag`; leaves by SystemExit: 0 all tagged, 1 some failed or nothing can be written, 2 usage, 130 Ctrl-C."""
    if list_models:
        for line in model_names():
            show(line)
        return
    if not inputs:
        _stop(USAGE, "name recordings, folders or globs to tag, or - for stdin; see --help")
    signal.signal(signal.SIGTERM, _interrupt)  # what `docker stop` and batch systems send
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names and labels in any language, wherever the output goes
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    _keep_stdout_for_results()
    try:
        from audioset_dcls.tagging.batch import EACH, Outputs, UsageError, run
        from audioset_dcls.tagging.journal import FolderRemovedError, JournalError
        from audioset_dcls.tagging.recordings import find_recordings
        from audioset_dcls.tagging.tagger import Options, Tagger
        from preprocessing.audio import MIX, to_channel

        try:
            outputs = Outputs(tuple(format.split(",")), output, separate, timeline, embeddings, plot)
            one = to_channel(MIX if channel == EACH else channel)
            options = Options(window, hop, threshold, top, channel=one)
            if jobs is not None and jobs < 1:
                raise UsageError(f"jobs must be at least 1, not {jobs}")
        except ValueError as error:  # UsageError is one
            _stop(USAGE, str(error))
        found = find_recordings(inputs)
        with _decoders(len(found.recordings), jobs) as decoders:
            try:
                tagger = Tagger(model, device, jobs)
                options = options.of(tagger)
                if labels is not None:
                    options = replace(options, labels=read_labels(labels, tagger.labels))
            except ValueError as error:  # ModelError is one
                _stop(USAGE, str(error))
            try:
                summary = run(found, tagger, options, outputs, resume, quiet, channel == EACH, decoders)
                sys.stdout.flush()
            except (UsageError, JournalError, ModelError) as error:
                _stop(1 if isinstance(error, FolderRemovedError) else USAGE, str(error))
    except BrokenPipeError:  # `dcls-tag ... | head`
        _abandon_stdout()
        raise SystemExit(1) from None
    except OSError as error:
        _abandon_stdout()
        kept = "; what was done is kept, the same command continues" if output else ""
        _stop(1, f"{error.filename or output or 'stdout'}: cannot be written: {error.strerror or error}{kept}")
    except KeyboardInterrupt as interrupt:
        _abandon_stdout()
        number = interrupt.args[0] if interrupt.args else signal.SIGINT
        _stop(_INTERRUPTED + number, "interrupted" + "; the same command continues there" * bool(output))
    raise SystemExit(summary.exit_status)


def export(
    checkpoint: str,
    target: Path,
    precision: str,
    clips: Sequence[str],
    calibrate: Sequence[Path] = (),
    train_data: Sequence[Path] = (),
    calibrate_by: str | None = None,
    about: Path | None = None,
) -> None:
    """`dcls-export`; leaves by SystemExit with 1 where the checkpoint or a clip cannot be read."""
    from audioset_dcls.models.checkpoint import load_checkpoint
    from audioset_dcls.tagging import export as onnx
    from audioset_dcls.tagging.recordings import find_recordings

    if precision not in onnx.PRECISIONS:
        _stop(USAGE, f"precision {precision!r} is unknown; use one of {', '.join(onnx.PRECISIONS)}", "dcls-export")
    found = find_recordings(clips)
    if found.problems:
        _stop(1, found.problems[0], "dcls-export")
    try:
        facts = {} if about is None else read_facts(about)
        model = load_checkpoint(checkpoint)
        if calibrate:
            from audioset_dcls.tagging.finish import LEAST_CLIPS, LEAST_SOURCES, finish

            judge = None if calibrate_by is None else load_checkpoint(calibrate_by)
            model = finish(model, calibrate, train_data, judge)
            before, after = model.metadata["calibration"]["calibration_error"]
            show(
                f"calibrated on {', '.join(map(str, calibrate))}: mean gap of score and share of positives "
                f"{before:.3f}, now {after:.3f}; {len(model.metadata['masked'])} classes with fewer than "
                f"{LEAST_CLIPS} training clips of {LEAST_SOURCES} sources masked"
            )
        model.metadata = {**model.metadata, **facts}
        written = onnx.export(model, target, precision, [clip.path for clip in found.recordings])
    except (OSError, ValueError) as error:  # CheckpointError and AudioError are ValueErrors
        _stop(1, str(error), "dcls-export")
    show(f"{written.path}: {written.megabytes:.1f} MB, {written.method}; cropped kernels: {written.kernels}")
    if written.loss is not None:
        loss = written.loss
        show(
            f"difference to float32 over {loss.windows} windows: mean {loss.mean:.2g}, largest {loss.largest:.2g}; "
            f"same best tag in {loss.same_best:.1%}"
        )


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


def read_labels(path: Path, known: Sequence[str]) -> tuple[str, ...]:
    """Display names from a text file with a name or MID a line; "#" begins a comment line. Raises ValueError."""
    from preprocessing.labels import labels as audioset_labels

    names = {label.mid: label.display_name for label in audioset_labels()}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: cannot be read as a list of labels: {getattr(error, 'strerror', None) or error}"
        ) from error
    wanted = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    chosen = [names.get(name, name) for name in wanted]
    for name in chosen:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise ValueError(
                f"{path}: the tagger knows no {name!r}" + (f"; did you mean {close[0]!r}?" if close else "")
            )
    if not chosen:
        raise ValueError(f"{path}: holds no labels; write one display name a line")
    return tuple(dict.fromkeys(chosen))


def model_names() -> list[str]:
    """One line for the embedded tagger and each published checkpoint."""
    try:
        embedded = str(embedded_tagger())
    except ModelError:
        embedded = f"{EMBEDDED} is missing in this installation"
    lines = [f"{'(default)':<16}  {embedded}"]
    try:
        from audioset_dcls.models.checkpoint import available_checkpoints
    except ImportError:
        return [*lines, "published checkpoints need torch: pip install audioset-dcls"]
    for name, entry in available_checkpoints().items():
        lines.append(
            f"{name:<16}  {entry.trunk}, {entry.parameters / 1e6:.1f} M parameters, "
            f"AudioSet mAP {entry.mean_average_precision:.1f}"
        )
    return lines


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


def _decoders(recordings: int, jobs: int | None) -> AbstractContextManager[DecoderPool | None]:
    """Processes that decode, which load their libraries while this one opens the model.

    None for a single recording: this process decodes it sooner, and there is no other one to lose.
    """
    if recordings < 2:
        return nullcontext()
    from preprocessing.cores import usable_cores
    from preprocessing.decoder_process import DecoderPool

    return DecoderPool(min(jobs or usable_cores(), recordings))


def _keep_stdout_for_results() -> None:
    """Let descriptor 1 lead nowhere, since C libraries print there, and `sys.stdout` to what it led to."""
    if not _has_descriptor(sys.stdout) or sys.stdout.fileno() != 1:
        return
    sys.stdout.flush()
    results = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    sys.stdout = open(results, "w", encoding="utf-8", errors="backslashreplace")  # noqa: PTH123, SIM115


def _has_descriptor(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.fileno() >= 0
    except (OSError, ValueError):  # a stream in memory, or a closed one
        return False


def _abandon_stdout() -> None:
    """Nothing more can or should be written there; Python would try once more on its way out, and complain."""
    if _has_descriptor(sys.stdout):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stop(status: int, message: str, command: str = "dcls-tag") -> NoReturn:
    show(f"{command}: {message}", sys.stderr)
    raise SystemExit(status)
