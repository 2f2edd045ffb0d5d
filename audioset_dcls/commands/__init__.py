"""The commands: a module each, with a `main` that parses, calls and prints."""

import importlib.util
import sys
from pathlib import Path


def _check_preprocessing() -> None:
    """Leave with one line if Python would import another `preprocessing` than this project's."""
    found = importlib.util.find_spec("preprocessing")
    origin = Path(found.origin) if found and found.origin else None
    if origin is None or origin.parents[1] != Path(__file__).parents[2]:
        stranger = origin.parent if origin and origin.name == "__init__.py" else origin or "no package `preprocessing`"
        sys.exit(f"audioset-dcls: {stranger} is not ours; rename it, or take its folder out of PYTHONPATH")


_check_preprocessing()
