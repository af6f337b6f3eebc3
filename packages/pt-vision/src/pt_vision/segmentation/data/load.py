"""From folders `images/` and `masks/`, or the built-in streets, to data sets of images with masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pt_core.errors import DataError, UserError

from pt_vision.data.images import colour, is_clutter
from pt_vision.data.names import BUILTIN_MASKS
from pt_vision.data.parts import ROLES
from pt_vision.options import DataOptions
from pt_vision.segmentation.data.dataset import SegmentationDataset
from pt_vision.segmentation.data.masks import IGNORE, FileMasks

IMAGES, MASKS = "images", "masks"
PARTS = {**ROLES, "target": ("target", "unlabeled", "unlabelled"), "easy": ("easy",), "hard": ("hard",)}
"""Role -> names of its folder; the last three may lack masks."""


def is_segmentation(spec: str) -> bool:
    """Whether `spec` holds images with masks (or images/ alone): a folder, or one of its parts, with images/ and nothing but masks/
    beside it; or the built-in streets."""
    if spec.startswith("builtin:"):
        return spec.removeprefix("builtin:") in BUILTIN_MASKS
    path = Path(spec)
    return path.is_dir() and bool(_parts(path))


def _parts(path: Path) -> dict[str, Path]:
    def holds(folder: Path) -> bool:
        names = {p.name for p in folder.iterdir() if p.is_dir() and not is_clutter(p, folder)}
        return IMAGES in names and names <= {IMAGES, MASKS}

    if holds(path):
        return {"train": path}
    found: dict[str, Path] = {}
    for role, names in PARTS.items():
        own = [p for p in sorted(path.iterdir()) if p.is_dir() and p.name.lower() in names and holds(p)]
        if len(own) > 1:
            raise DataError(f"{path} has {' and '.join(p.name for p in own)} for the {role} part; keep one")
        if own:
            found[role] = own[0]
    return found


def load_segmentation(spec: str, options: DataOptions) -> dict[str, SegmentationDataset]:
    """Role -> images with masks.

    Raises:
        DataError: an unreadable image or mask, an image without a mask, a mask value that is no class; all name the file.
    """
    resize = _size(options)
    if spec.startswith("builtin:"):
        from pt_vision.segmentation.data.streets import SIZES, SMALL, street_parts

        sizes = SMALL if spec.endswith("_small") else SIZES
        parts = street_parts(options.weather_severity, tuple(sizes.items()))
        return {role: replace(part, resize=resize) for role, part in parts.items()}
    path = Path(spec)
    folders = _parts(path)
    names, colours, ignored = _class_file(path, options)
    notes: list[str] = []
    found: dict[str, SegmentationDataset] = {}
    for role, folder in folders.items():
        found[role] = _folder(folder, path, names, colours, ignored, options, resize)
    if names is None:
        labelled = [part.masks for part in found.values() if isinstance(part.masks, FileMasks)]
        largest = max((masks.largest() for masks in labelled), default=1)
        names = [f"class {value}" for value in range(largest + 1)]
        if labelled:
            notes.append(f"{path} has no classes.txt: {len(names)} classes are named by their mask values 0..{largest}")
        for masks in labelled:
            masks.classes = len(names)
        found = {role: replace(part, classes=names) for role, part in found.items()}
    for part in found.values():
        part.look()
    first = next(iter(found))
    found[first] = replace(found[first], notes=tuple(notes))
    return found


def _size(options: DataOptions) -> tuple[int, int] | None:
    if options.resize_rows is None or options.resize_columns is None:
        if options.resize_rows != options.resize_columns:
            raise UserError("--resize-rows and --resize-columns belong together; give both")
        return None
    return options.resize_rows, options.resize_columns


def _class_file(
    path: Path, options: DataOptions
) -> tuple[list[str] | None, list[tuple[int, int, int] | None], set[int]]:
    """(names of the lines in order, their colours, mask values to ignore). Lines called `ignore` stay among the names."""
    ignored = {IGNORE, *(int(v) for v in options.ignore_values)}
    file = path / "classes.txt" if options.classes_file is None else Path(options.classes_file)
    if not file.is_file():
        if options.classes_file is not None:
            raise UserError(f"--classes-file {file} does not exist")
        return None, [], ignored
    names: list[str] = []
    colours: list[tuple[int, int, int] | None] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        words = line.replace(",", " ").split()
        if not words:
            continue
        rgb = words[-3:]
        coloured = len(words) > 3 and all(word.isdecimal() and int(word) < 256 for word in rgb)
        names.append(" ".join(words[:-3] if coloured else words))
        colours.append((int(rgb[0]), int(rgb[1]), int(rgb[2])) if coloured else None)
    if not names:
        raise DataError(f"{file} names no class")
    return names, colours, ignored


def _folder(
    folder: Path,
    root: Path,
    names: list[str] | None,
    colours: Sequence[tuple[int, int, int] | None],
    ignored: set[int],
    options: DataOptions,
    resize: tuple[int, int] | None,
) -> SegmentationDataset:
    images = folder / IMAGES
    files = sorted((p for p in images.rglob("*") if p.is_file() and not is_clutter(p, images)), key=Path.as_posix)
    if not files:
        raise DataError(f"{images} holds no image")
    inside = [p.relative_to(images) for p in files]
    condition = [p.parts[0] if len(p.parts) > 1 else "" for p in inside]
    masks = None
    if (folder / MASKS).is_dir():
        own = {p.relative_to(folder / MASKS).with_suffix("").as_posix(): p for p in (folder / MASKS).rglob("*.png")}
        missing = [p.as_posix() for p in inside if p.with_suffix("").as_posix() not in own]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(files)} images in {images} have no mask of their name in {folder / MASKS}: {missing[0]} "
                f"needs {Path(missing[0]).with_suffix('.png')}"
            )
        masks = FileMasks([own[p.with_suffix("").as_posix()] for p in inside], names, colours, ignored)
    kept = [name for name in names or [] if name.lower() != "ignore"]
    return SegmentationDataset(
        files,
        [p.relative_to(root).as_posix() for p in files],
        masks,
        kept,
        condition if any(condition) else (),
        background=colour(options.background),
        resize=resize,
    )
