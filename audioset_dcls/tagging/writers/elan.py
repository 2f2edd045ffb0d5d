"""An annotation file of ELAN: a tier a class, whose annotations hold the scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from audioset_dcls.tagging.writers.formats import Format, Record, tiers
from preprocessing.terminal import printable

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_TYPE = "default-lt"
_SCHEMA = {
    "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
    "xsi:noNamespaceSchemaLocation": "http://www.mpi.nl/tools/elan/EAFv3.0.xsd",
}
_NO_DATE = "1970-01-01T00:00:00+00:00"  # the attribute must be there; the same run writes the same bytes


def _render(records: Iterable[Record], timeline: bool) -> Iterator[str]:
    from xml.etree import ElementTree as ET

    for record in records:
        root = _document(record)
        ET.indent(root)
        yield '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _document(record: Record) -> Element:
    from xml.etree import ElementTree as ET

    about = {"AUTHOR": "dcls-tag", "DATE": record["recorded"] or _NO_DATE, "FORMAT": "3.0", "VERSION": "3.0"}
    root = ET.Element("ANNOTATION_DOCUMENT", {**about, **_SCHEMA})
    header = ET.SubElement(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    if record["path"] is not None:
        ET.SubElement(header, "MEDIA_DESCRIPTOR", MEDIA_URL=Path(record["path"]).as_uri(), MIME_TYPE="audio/*")
    order = ET.SubElement(root, "TIME_ORDER")
    count = 0
    for label, events in tiers(record).items():
        tier = ET.SubElement(root, "TIER", TIER_ID=printable(label), LINGUISTIC_TYPE_REF=_TYPE)
        for start, end, score in events:
            for moment in (start, end):
                count += 1
                ET.SubElement(order, "TIME_SLOT", TIME_SLOT_ID=f"ts{count}", TIME_VALUE=f"{moment * 1000:.0f}")
            annotation = ET.SubElement(
                ET.SubElement(tier, "ANNOTATION"),
                "ALIGNABLE_ANNOTATION",
                ANNOTATION_ID=f"a{count // 2}",
                TIME_SLOT_REF1=f"ts{count - 1}",
                TIME_SLOT_REF2=f"ts{count}",
            )
            ET.SubElement(annotation, "ANNOTATION_VALUE").text = f"{score:.2f}"
    ET.SubElement(root, "LINGUISTIC_TYPE", LINGUISTIC_TYPE_ID=_TYPE, TIME_ALIGNABLE="true", GRAPHIC_REFERENCES="false")
    return root


ELAN = Format(".eaf", _render, of="recording")
