"""Backbones that are not there, or not what a folder says."""

from __future__ import annotations

import pytest
from pt_core.errors import UserError
from pt_language.backbones import load_backbone


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("builtin:lm_dosc", "no built-in backbone 'lm_dosc' .did you mean 'lm_docs'"),
        ("timm:vit", "is of no known kind; use builtin:NAME, hf:ID or local:FOLDER"),
        ("local:/nowhere", "has no config.json"),
        ("local:", "is of no known kind"),
    ],
)
def test_backbones_that_are_not_there_are_named(spec, message):
    with pytest.raises(UserError, match=message):
        load_backbone(spec)


def test_a_folder_without_weights_or_with_a_foreign_network_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(UserError, match="cannot be loaded"):
        load_backbone(f"local:{tmp_path}")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_backbone(f"local:{tmp_path}")
