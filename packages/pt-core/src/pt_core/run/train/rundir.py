"""The folder of a run: lock, run.json, config.yaml, metrics.jsonl."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from pt_core.errors import UserError
from pt_core.run.declare.numbers import finite
from pt_core.run.declare.options import WITHOUT_EFFECT
from pt_core.sealed import read_json, sweep, write_text

OWN = {
    "config.yaml",
    "metrics.jsonl",
    "tuned",
    "stages",
    "checkpoints",
    "predictions",
    "work",
    "report.json",
    "report.html",
}
"""What a run writes besides run.json."""


class RunDir:
    """A run folder held by this process. Only the main process of a distributed run opens one for writing.

    Raises:
        UserError: the path is a file, is not writable, holds another finished run, or is held by another process.
    """

    def __init__(self, path: Path, main: bool = True) -> None:
        self.path, self.main = path, main
        self._lock: Any = None
        self._before: set[str] | None = None
        """What lay in the folder before this run; None where there was no folder."""
        self._made: Path | None = None
        """The first folder that had to be made for it."""

    def open(self, resume: bool = False) -> RunDir:
        """Take the lock; a new run refuses a folder that already holds one."""
        if not self.main:
            return self
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--out {self.path} is a file; name a folder")
        if resume and not (self.path / "run.json").is_file():
            raise UserError(
                f"{self.path} is not a run folder (no run.json); start one with `fit ... --out {self.path}`"
            )
        if not resume and (self.path / "run.json").exists():
            status = self.status().get("status", "unknown")
            advice = "choose another --out" if status == "finished" else f"continue it with `resume {self.path}`"
            raise UserError(f"{self.path} already holds a run ({status}); {advice}")
        self._before = {path.name for path in self.path.iterdir()} if self.path.is_dir() else None
        taken = sorted(OWN & (self._before or set()))
        if taken and not resume:
            raise UserError(f"{self.path} holds {', '.join(taken)}, which a run would overwrite; choose another --out")
        self._made = next((p for p in reversed([self.path, *self.path.parents]) if not p.exists()), None)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror}; choose another --out") from None
        self._take_lock()
        sweep(self.path)  # a killed process may have left half-written files
        return self

    def _take_lock(self) -> None:
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / ".lock")
        holder = self.path / ".holder"
        try:
            lock.acquire(timeout=0)
        except Timeout:
            who = holder.read_text() if holder.is_file() else "another process"
            raise UserError(f"{self.path} is in use by {who}; wait for it or choose another --out") from None
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        self._lock = lock

    def close(self) -> None:
        if self._lock is not None:
            (self.path / ".holder").unlink(missing_ok=True)
            self._lock.release()
            (self.path / ".lock").unlink(missing_ok=True)
            self._lock = None

    def discard(self) -> None:
        """Remove what a new run wrote that was refused before it began; what lay there before stays."""
        if not self.main:
            return
        self.close()
        if self._before is None:
            shutil.rmtree(self.path, ignore_errors=True)
            for folder in self.path.parents:  # those that were made for it, as long as nothing else went there
                if (
                    self._made is None
                    or not (folder == self._made or self._made in folder.parents)
                    or any(folder.iterdir())
                ):
                    break
                folder.rmdir()
            return
        for path in self.path.iterdir():
            if path.name not in self._before:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def __enter__(self) -> RunDir:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def status(self) -> dict[str, Any]:
        path = self.path / "run.json"
        return read_json(path) if path.is_file() else {}

    def update(self, values: Mapping[str, Any]) -> None:
        """Merge values into run.json (atomically)."""
        if self.main:
            write_text(self.path / "run.json", json.dumps({**self.status(), **values}, indent=1, default=str))

    def write_config(self, config: Mapping[str, Any]) -> None:
        if self.main:
            write_text(self.path / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))

    def options(self) -> dict[str, Any]:
        """What config.yaml says of the run but for what does not change its result; the data's own identity is compared elsewhere."""
        path = self.path / "config.yaml"
        found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
        options = found.get("options") if isinstance(found, dict) else None
        if not isinstance(options, dict):
            return {}
        free = (*WITHOUT_EFFECT, "accumulate", "data")
        told: dict[str, Any] = json.loads(
            json.dumps({key: options[key] for key in options if key not in free}, default=str)
        )
        return told

    def log(self, values: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        if self.main:
            path = self.path / "metrics.jsonl"
            try:
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(values) + "\n")
            except OSError as error:
                raise UserError(
                    f"cannot write {path}: {error.strerror}; free space, then `resume {self.path}`"
                ) from None

    def metrics(self) -> list[dict[str, Any]]:
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return []
        lines = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                continue  # the last line of a killed process may be cut
            if isinstance(found, dict):
                lines.append(found)
        return lines

    def rewind(self, stage: int, step: int) -> None:
        """Drop metric lines written after (stage, step): a resumed run writes them again."""
        if self.main and (self.path / "metrics.jsonl").is_file():
            kept = [line for line in self.metrics() if _place(line) <= (stage, step)]
            write_text(self.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))


def _place(line: Mapping[str, Any]) -> tuple[float, float]:
    """Where a line of metrics belongs; one that is not ours stays."""
    stage, step = (line.get(name, 0) for name in ("stage_number", "step"))
    return (stage, step) if finite(stage) and finite(step) else (0, 0)


def environment(packages: Mapping[str, str]) -> dict[str, Any]:
    """Versions, machine and thread count: what bit-equality of a rerun depends on. Host names and paths are left out."""
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "system": platform.system(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **packages,
    }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def command_line() -> list[str]:
    return [Path(sys.argv[0]).name, *sys.argv[1:]]
