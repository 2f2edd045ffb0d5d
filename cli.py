"""The console commands: parse, call, print. Each command imports what it needs inside, so that `--help` answers at once."""

from __future__ import annotations
