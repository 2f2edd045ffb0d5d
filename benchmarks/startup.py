"""How soon each command answers: wall time of `--help` and of importing the packages, best of N rounds.

    python benchmarks/startup.py [--rounds 10]

Fresh interpreters in turns, round by round, so that other work on the machine hits all alike. No program can go below
`python -c pass`, none that needs torch below `import torch`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = tuple(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])


def candidates() -> dict[str, list[str]]:
    """What is measured, by the name to print; the commands as installed beside this interpreter."""
    scripts = Path(sys.executable).parent
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        **{f"{command} --help": [str(scripts / command), "--help"] for command in COMMANDS},
        "dcls-prepare audioset --help": [str(scripts / "dcls-prepare"), "audioset", "--help"],
        "import audioset_dcls": [sys.executable, "-c", "import audioset_dcls"],
        "import preprocessing": [sys.executable, "-c", "import preprocessing"],
        "from preprocessing import read_audio": [sys.executable, "-c", "from preprocessing import read_audio"],
        "from audioset_dcls import Tagger": [sys.executable, "-c", "from audioset_dcls import Tagger"],
        "import torch": [sys.executable, "-c", "import torch"],
    }


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, metavar="N")
    rounds = parser.parse_args().rounds
    commands = candidates()
    times = [[seconds(command) for command in commands.values()] for _ in range(rounds)]
    best = dict(zip(commands, map(min, zip(*times, strict=True)), strict=True))
    print(f"best of {rounds}\n\n| | s | x python |\n| --- | --- | --- |")
    for name, wall in best.items():
        print(f"| `{name}` | {wall:.3f} | {wall / best['python -c pass']:.1f} |")


if __name__ == "__main__":
    main()
