"""For people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from audioset_dcls.tagging.writers.formats import Format, Record, clock
from preprocessing.terminal import printable


def _render(records: Iterable[Record], timeline: bool) -> Iterator[str]:
    for record in records:
        lines = [f"{printable(record['file'])}  {clock(record['duration'])}"]
        if timeline:
            lines += [
                f"  {clock(e['start']):>7} - {clock(e['end']):<7}  {e['score']:.2f}  {printable(e['label'])}"
                for e in record["events"]
            ]
        else:
            lines += [f"  {tag['score']:.2f}  {printable(tag['label'])}" for tag in record["tags"]]
        if len(lines) == 1:
            best = record["best"]
            lines.append(f"  nothing above the threshold; best: {best['score']:.2f}  {printable(best['label'])}")
        yield "\n".join(lines) + "\n"


TABLE = Format(".txt", _render)
