"""The command that makes what is shipped."""

from __future__ import annotations

from pathlib import Path

import pytest
from pt_audio.backbones import load_backbone
from pt_audio.pretrain import encoder as pretrain, text as pretrain_text


@pytest.mark.slow
def test_pretraining_writes_models_that_load_and_train(tmp_path: Path) -> None:
    config = pretrain.small(pretrain.EncoderConfig())
    recipe = pretrain.pretrain(config, tmp_path / "encoder")
    assert recipe["config"]["dim"] == 16
    assert load_backbone(f"local:{tmp_path / 'encoder'}").dim == 16
    text = pretrain_text.TextConfig(width=32, depth=1, inner=32, text_width=16, text_steps=2, steps=2, batch_size=2)
    pretrain_text.pretrain(text, tmp_path / "texts")
    lm = load_backbone(f"local:{tmp_path / 'texts' / 'lm'}", None, "lm")
    bert = load_backbone(f"local:{tmp_path / 'texts' / 'text'}", None, "text")
    assert (lm.dim, bert.dim) == (32, 16)
    assert lm.begin == 1  # type: ignore[attr-defined]
    again = pretrain.pretrain(config, tmp_path / "again")
    assert again["held_out_tags"] == recipe["held_out_tags"]
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("encoder", "again")]
    assert files[0] == files[1]
