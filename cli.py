"""The commands in a checkout: `python cli.py tag clip.wav` is `dcls-tag clip.wav`."""

import importlib
import sys

COMMANDS = {
    "tag": "tag",
    "listen": "listen",
    "prepare": "prepare",
    "train": "train",
    "eval": "evaluate",
    "export": "export",
    "inspect": "inspect",
    "models": "models",
    "index": "index",
    "search": "search",
    "teach": "teach",
    "review": "review",
    "page": "page",
}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(f"usage: python cli.py {{{','.join(COMMANDS)}}} ...")
    name = sys.argv.pop(1)
    sys.argv[0] = f"dcls-{name}"
    importlib.import_module(f"audioset_dcls.commands.{COMMANDS[name]}").main()
