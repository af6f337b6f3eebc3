"""Timing by alternation, peak memory in processes of their own, and JSON results with what they were taken on.

Times on a shared machine say little on their own. So all contenders run in one process, one after the other, round by
round in changing order; a ratio is the median over the rounds of the two times of one round, which a slow phase of the
machine slows alike. `spread` is the distance of the ratios' quartiles, relative to their median.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Times:
    """Seconds per round of every contender."""

    seconds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratios(self, above: str, below: str) -> list[float]:
        return [a / b for a, b in zip(self.seconds[above], self.seconds[below], strict=True)]

    def ratio(self, above: str, below: str) -> float:
        """Median over the rounds of time(above) / time(below)."""
        return statistics.median(self.ratios(above, below))

    def spread(self, above: str, below: str) -> float:
        ratios = self.ratios(above, below)
        if len(ratios) < 2:
            return float("nan")
        low, middle, high = statistics.quantiles(ratios, n=4)
        return (high - low) / middle


def seconds(body: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    body()
    return time.perf_counter() - start


def alternate(
    contenders: Mapping[str, Callable[[], Any]],
    rounds: int,
    warmup: int = 1,
    measure: Callable[[Callable[[], Any]], float] = seconds,
) -> Times:
    """Run every contender once per round; the order turns around with every round. `warmup` rounds are not counted."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(-warmup, rounds):
        order = list(contenders) if number % 2 else list(reversed(contenders))
        for name in order:
            found = measure(contenders[name])
            if number >= 0:
                taken[name].append(found)
    return Times(taken)


def difference(have: Any, want: Any) -> float:
    """Largest absolute difference of two tensors, relative to the largest reference value."""
    return float((have - want).abs().max() / want.abs().max())


def peak_bytes(body: Callable[[], Any]) -> tuple[int, int]:
    """(resident bytes before, their peak while `body` runs) of this process; where Linux does not tell, of its whole life."""
    before = _status("VmRSS")
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # starts the high-water mark anew
    body()
    return before, _status("VmHWM")


def _status(field: str) -> int:
    path = Path("/proc/self/status")
    if not path.exists():
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = next(line for line in path.read_text().splitlines() if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])


def in_own_process(module: str, arguments: Sequence[str]) -> Any:
    """The JSON that `python -m MODULE ARGUMENTS` prints on its last line.

    The C library is told to give every large block back at once, so that resident memory follows what is in use.
    """
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def machine(device: str = "cpu") -> dict[str, Any]:
    """What the numbers were taken on; no names of hosts or users."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cpu": next(names, platform.processor()),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": version("timm"),
    }


def load() -> float | None:
    """Processes waiting for a core, over the last minute; the benchmark itself counts."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def write(name: str, content: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], out: Path | None = None) -> Path:
    """Write results/NAME.json: `content`, then one line per row."""
    path = out if out is not None else RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    head = json.dumps(content, indent=1)
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    path.write_text(f'{head[:-2]},\n "rows": [\n{lines}\n ]\n}}\n')
    return path


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return content


def finished_run(fit: Callable[..., Any], folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """run.json of a finished run in `folder`; made now by `fit` where it is not there, or was stopped."""
    from pt_core.run.train.rundir import RunDir

    status = RunDir(folder).status()
    if status.get("status") != "finished":
        shutil.rmtree(folder, ignore_errors=True)
        values = dict(options)
        fit(values.pop("method"), out=folder, quiet=True, **values)
        status = RunDir(folder).status()
    return status
