"""Adds the page to wheel and sdist, if `make page` has built it: who builds a wheel need not have Node.js."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PAGE = "page/dist"


class PageHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "editable" and (Path(self.root) / PAGE / "index.html").is_file():
            target = PAGE if self.target_name == "sdist" else f"audioset_dcls/data/{PAGE}"
            build_data["force_include"][PAGE] = target
