"""Folders that are complete or not there: temporary folder, manifest with sizes and hashes, fsync, rename.

Only safetensors and JSON are written. A folder is complete when its `manifest.json`, written last, lists every file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pt_core.errors import ArtifactError

MANIFEST = "manifest.json"
MAX_JSON_BYTES = 8 * 2**20
MAX_DEPTH = 32

Content = str | bytes | Mapping[str, Tensor]


def write_sealed(folder: Path, files: Mapping[str, Content]) -> None:
    """Write `files` (relative path -> text, bytes or tensors) as one sealed folder, replacing an older one of that name.

    Raises:
        ArtifactError: the disk is full or not writable; names the path and the size. An older folder stays intact.
    """
    temporary = folder.parent / f".{folder.name}.tmp-{os.getpid()}"
    size = sum(_size(content) for content in files.values())
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        entries = {}
        for name, content in files.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, content)
            entries[name] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        _write(temporary / MANIFEST, json.dumps({"files": entries}, indent=1))
        for directory in {temporary, *(p.parent for p in temporary.rglob("*"))}:
            _fsync_folder(directory)
        retired = folder.parent / f".{folder.name}.old-{os.getpid()}"
        if folder.exists():
            os.replace(folder, retired)
        os.replace(temporary, folder)
        _fsync_folder(folder.parent)
        shutil.rmtree(retired, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        # safetensors reports a full disk as an error of its own.
        shutil.rmtree(temporary, ignore_errors=True)
        raise ArtifactError(_cannot_write(folder, size, error)) from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a sealed folder, after every listed file's size and hash were checked.

    Raises:
        ArtifactError: no manifest, or a file is missing, truncated or altered; names file, expected and found.
    """
    manifest = read_json(folder / MANIFEST)
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise ArtifactError(f"{folder / MANIFEST} lists no files; the folder is damaged")
    for name, entry in files.items():
        path = inside(folder, name)
        if not (
            isinstance(entry, dict) and isinstance(entry.get("bytes"), int) and isinstance(entry.get("sha256"), str)
        ):
            raise ArtifactError(f"{folder / MANIFEST} has no size and hash for {name!r}; the folder is damaged")
        if not path.is_file():
            raise ArtifactError(f"{path} is missing; the folder is damaged")
        found = path.stat().st_size
        if found != entry["bytes"]:
            raise ArtifactError(
                f"{path} has {found:,} bytes, expected {entry['bytes']:,}; the file is truncated or altered"
            )
        digest = file_digest(path)
        if digest != entry["sha256"]:
            raise ArtifactError(
                f"{path} has sha256 {digest[:12]}..., expected {entry['sha256'][:12]}...; the file is damaged"
            )
    return manifest


def inside(folder: Path, name: str) -> Path:
    """`folder / name`, refusing names that would leave the folder."""
    path = folder / name
    try:
        inner = not Path(name).is_absolute() and ".." not in Path(name).parts
        inner = inner and path.resolve().is_relative_to(folder.resolve())
        path.is_file()
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{name[:80]!r} is no usable file name in {folder}: {error}") from None
    if not inner:
        raise ArtifactError(f"file name {name!r} points outside {folder}")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object with limits on size and nesting.

    Raises:
        ArtifactError: unreadable, too large, too deep, or not an object.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise ArtifactError(f"{path} has {size:,} bytes, more than the {MAX_JSON_BYTES:,} allowed for JSON")
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist; is this a run folder or its tuned/ folder?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not readable JSON: {error}") from None
    if not isinstance(data, dict) or _depth(data) > MAX_DEPTH:
        raise ArtifactError(f"{path} does not hold a JSON object nested at most {MAX_DEPTH} deep")
    return data


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Load a safetensors file.

    Raises:
        ArtifactError: missing, not safetensors (a pickle is never opened), damaged, or holding NaN or infinity.
    """
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise ArtifactError(f"{path} is not a valid safetensors file ({error}); pickles are never loaded") from None
    return tensors


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse NaN and infinity, naming the tensor."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(f"tensor {name!r} in {where} holds NaN or infinite values")


def sweep(folder: Path) -> None:
    """Remove temporary folders that killed writers left, and put back an old folder whose replacement never arrived."""
    if not folder.is_dir():
        return
    for stale in folder.glob(".*.tmp-*"):
        if stale.is_dir():
            shutil.rmtree(stale, ignore_errors=True)
        else:
            stale.unlink(missing_ok=True)
    for retired in folder.glob(".*.old-*"):
        original = folder / retired.name[1:].rpartition(".old-")[0]
        if original.exists():
            shutil.rmtree(retired, ignore_errors=True)
        else:
            os.replace(retired, original)


def write_text(path: Path, text: str) -> None:
    """Write a single file atomically.

    Raises:
        ArtifactError: the disk is full or not writable; an older file stays intact.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        _write(temporary, text)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ArtifactError(_cannot_write(path, len(text), error)) from error


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, content: Content) -> None:
    if isinstance(content, Mapping):
        # Clones make tied and expanded tensors storable; safetensors refuses shared memory.
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in content.items()}
        path.touch()
        mode = path.stat().st_mode
        save_file(tensors, path)
        path.chmod(mode)  # safetensors makes files that only their owner may read; an artifact is there to be shared
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return
    with path.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def _cannot_write(path: Path, size: int, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or error
    return f"cannot write {path} ({size:,} bytes): {reason}; free space or choose another place"


def _size(content: Content) -> int:
    if isinstance(content, Mapping):
        return sum(tensor.numel() * tensor.element_size() for tensor in content.values())
    return len(content)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _depth(value: Any, level: int = 1) -> int:
    if level > MAX_DEPTH:
        return level
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return max((_depth(child, level + 1) for child in children), default=level)
