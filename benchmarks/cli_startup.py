"""Wall time of commands that only print: they must answer in under a second, so they must not import torch.

    python -m benchmarks.cli_startup [--rounds 9]

Every command runs in a process of its own, with compiled bytecode at hand as from the second call on; bare Python and
`import torch` stand beside them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks._harness import alternate, load, machine, write

SCRIPT = str(Path(sys.executable).with_name("pt-vision"))
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
COMMANDS = {
    "pt-vision --help": [SCRIPT, "--help"],
    "pt-vision methods": [SCRIPT, "methods"],
    "pt-vision fit --help": [SCRIPT, "fit", "--help"],
    "python -c pass": [sys.executable, "-c", "pass"],
    "python -c 'import torch'": [sys.executable, "-c", "import torch"],
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    before = load()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        bodies = {
            name: partial(subprocess.run, command, env=environment, check=True, **QUIET)
            for name, command in COMMANDS.items()
        }
        times = alternate(bodies, args.rounds)
    rows = [
        {"command": name, "seconds": round(times.median(name), 3), "slowest": round(max(times.seconds[name]), 3)}
        for name in COMMANDS
    ]
    for row in rows:
        print(f"{row['command']:26} {row['seconds']:.3f} s (slowest of {args.rounds}: {row['slowest']:.3f} s)")
    head = {"machine": machine(), "load": [before, load()], "settings": {"rounds": args.rounds}}
    print(write("cli_startup", head, rows, args.out))


if __name__ == "__main__":
    main()
