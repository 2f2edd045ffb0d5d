"""What the page needs of this project: python scripts/page_data.py page/dist, as `make page` calls it.

Writes the embedded tagger, and `defaults.json` with the ontology and the defaults of `dcls-tag`, so that the page does
not state them a second time.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from audioset_dcls.tagging.events import RELEASE
from audioset_dcls.tagging.results import THRESHOLD, TOP
from audioset_dcls.tagging.tagger import EMBEDDED, embedded_tagger
from audioset_dcls.tagging.windows import DROPPED_TAIL, LONGEST_WINDOW
from preprocessing.constants import LogMelSettings
from preprocessing.labels import labels

DEFAULTS = {
    "threshold": THRESHOLD,
    "top": TOP,
    "release": RELEASE,
    "longest_window": LONGEST_WINDOW,
    "dropped_tail": DROPPED_TAIL,
    "log_mel": asdict(LogMelSettings()),
    "parents": {label.display_name: label.parents for label in labels()},
}

if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(embedded_tagger(), target / EMBEDDED)
    (target / "defaults.json").write_text(json.dumps(DEFAULTS, separators=(",", ":")), encoding="utf-8")
