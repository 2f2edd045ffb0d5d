"""Names of a package that are imported at first use, so that importing the package costs nothing."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def exports(package: str, modules: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for `package`, whose `__all__` a type checker wants to read as it stands.

    Args:
        modules: module -> the names that it gives to the package.
    """
    where = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(where[name]), name)

    def names() -> list[str]:
        module = sys.modules[package]
        return sorted({*vars(module), *where, *(found.name for found in pkgutil.iter_modules(module.__path__))})

    return get, names
