from __future__ import annotations

from pathlib import Path

import pytest

from tests.vision.pictures import make_folder


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    return make_folder(
        tmp_path / "d", {"train": {"dog": 4, "cat": 3}, "valid": {"cat": 2}, "test": {"dog": 1, "cat": 1}}
    )
