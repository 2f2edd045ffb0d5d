"""The model card of a tagger: a page for people, whose head has the scores in the Hub's metadata form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from preprocessing.terminal import printable

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

_LICENCES = {  # the Hub's ids; anything else is "other" with its own name
    *("mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0"),
    *("gpl-2.0", "gpl-3.0", "lgpl-3.0", "mpl-2.0", "unlicense"),
}
_TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

An audio tagger: {{ classes }} classes, independent scores, recordings of any format, rate and length.

```sh
pip install 'audioset-dcls[hub]'
dcls-tag --model hf:{{ repository }} recordings/
```

```python
from audioset_dcls import Tagger

Tagger("hf:{{ repository }}")("clip.wav").top(5)
```

`model.safetensors` is the checkpoint to train from (`load_checkpoint("hf:{{ repository }}")`), `config.json` says what
is in it. If there is a `tagger.onnx`, any ONNX Runtime computes it: waveform in, scores out; `tagger.labels.json` names
them.
{% if facts %}
| | |
| --- | --- |
{{ facts }}
{% endif %}{% if scores %}
## Scores

| clips | metric | value | 95 % interval |
| --- | --- | --- | --- |
{{ scores }}
{% endif %}"""


def scores_of(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str, float, Sequence[float]]]:
    """(clips, metric, value, [low, high] or []) of what a checkpoint's metadata tells of its scores.

    `scores` holds metrics, or sets of clips that hold metrics; a metric is a number or [value, low, high]. `val_map` is
    the mAP on the validation clips that training kept.
    """
    given = metadata.get("scores")
    for name, value in (given if isinstance(given, Mapping) else {}).items():
        for metric, number in value.items() if isinstance(value, Mapping) else [(name, value)]:
            clips = name if isinstance(value, Mapping) else "evaluation"
            values = number if isinstance(number, Sequence) and not isinstance(number, str) else [number]
            if len(values) in (1, 3) and all(_is_number(one) for one in values):
                yield clips, metric, values[0], list(values[1:])
    if _is_number(metadata.get("val_map")):
        yield "validation", "mAP", metadata["val_map"], []


def model_card(config: Mapping[str, Any], metadata: Mapping[str, Any], repository: str = "OWNER/NAME") -> ModelCard:
    """The card of a checkpoint with this `config` and `metadata`, with `repository` in its examples."""
    from huggingface_hub import ModelCard, ModelCardData

    licence = metadata.get("licence") or metadata.get("license")
    known = str(licence).lower()
    about: dict[str, Any] = {"license": known} if known in _LICENCES else {}
    if licence and not about:
        about = {"license": "other", "license_name": re.sub(r"[^a-z0-9.-]+", "-", known)[:60]}
    title = f"{config['name']}{'_dcls' * bool(config['dcls'])}"
    scores = list(scores_of(metadata))
    if scores:
        about |= {"model_name": title, "eval_results": [_result(*score) for score in scores]}
    data = ModelCardData(
        library_name="audioset-dcls",
        pipeline_tag="audio-classification",
        tags=["audio-tagging", "audioset", *["dcls"] * bool(config["dcls"])],
        **about,
    )
    facts = {key: value for key, value in metadata.items() if isinstance(value, str | int | float) and key != "val_map"}
    return ModelCard.from_template(
        data,
        template_str=_TEMPLATE,
        title=title,
        classes=config["num_classes"],
        repository=repository,
        facts="\n".join(f"| {_cell(key)} | {_cell(value)} |" for key, value in facts.items()),
        scores="\n".join(
            f"| {_cell(clips)} | {_cell(metric)} | {value:.4g} | {' to '.join(f'{end:.4g}' for end in interval)} |"
            for clips, metric, value, interval in scores
        ),
    )


def _result(clips: str, metric: str, value: float, interval: Sequence[float]) -> EvalResult:
    from huggingface_hub import EvalResult

    return EvalResult(
        task_type="audio-classification",
        task_name="Audio tagging",
        dataset_type=clips,
        dataset_name=clips.replace("_", " "),
        metric_type=metric,
        metric_name=metric.replace("_", " "),
        metric_value=value,
        metric_args={"interval_95": list(interval)} if interval else None,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    return printable(value).replace("|", r"\|")
