"""What a recipe file says besides options and results."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any


def versions(*distributions: str) -> dict[str, str]:
    """Versions of the libraries that the weights depend on, and of Python."""
    return {**{name: metadata.version(name) for name in distributions}, "python": platform.python_version()}


def write_recipe(path: Path, recipe: Mapping[str, Any]) -> None:
    """A recipe beside the weights that it made, to be read."""
    path.write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
