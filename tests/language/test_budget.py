"""`budget` counts the network that `fit` loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from pt_language.adapters.decoder import DecoderBackbone
from pt_language.backbones import adapt, load_backbone
from safetensors.torch import load_file, save_file

from tests.language.adapters.families import build, configuration
from tests.language.common import tokenizer

KINDS = {
    "t5": (t.T5Config, t.T5ForConditionalGeneration),
    "mt5": (t.MT5Config, t.MT5ForConditionalGeneration),
    "umt5": (t.UMT5Config, t.UMT5ForConditionalGeneration),
}


def folder(kind: str, at: Path, own_head: bool) -> Path:
    """The published layout: of T5 1.1 and mT5, `lm_head.weight` in the file and `tie_word_embeddings` false; of T5 1.0, neither."""
    config, cls = KINDS[kind]
    model: Any = cls(
        config(
            vocab_size=300, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0, eos_token_id=0,
            pad_token_id=0, feed_forward_proj="gated-gelu",
        )
    )  # fmt: skip
    model.save_pretrained(at)
    tokenizer().save_pretrained(at)
    if own_head:
        tensors = load_file(at / "model.safetensors")
        tensors["lm_head.weight"] = torch.randn(300, 32)
        save_file(tensors, at / "model.safetensors", {"format": "pt"})
    told = json.loads((at / "config.json").read_text())
    told["tie_word_embeddings"] = not own_head
    (at / "config.json").write_text(json.dumps(told))
    return at


def values(backbone: Any) -> int:
    return sum(tensor.numel() for tensor in backbone.frozen_tensors())


@pytest.mark.parametrize("own_head", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_an_output_head_of_its_own_counts(kind, own_head, tmp_path):
    spec = f"local:{folder(kind, tmp_path, own_head)}"
    stored = sum(tensor.numel() for tensor in load_file(tmp_path / "model.safetensors").values())
    loaded, counted = load_backbone(spec), load_backbone(spec, device="meta")
    assert values(loaded) == values(counted) == stored
    assert (loaded.module.lm_head.weight is loaded.module.shared.weight) != own_head
    (tmp_path / "model.safetensors").unlink()  # as of a hub model, of which only the configuration is read
    assert values(load_backbone(spec, device="meta")) == stored


def test_a_head_that_is_stored_twice_counts_once(tmp_path):
    folder("t5", tmp_path, False)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(
        {**tensors, "lm_head.weight": tensors["shared.weight"].clone()},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    spec = f"local:{tmp_path}"
    assert (
        values(load_backbone(spec))
        == values(load_backbone(spec, device="meta"))
        == sum(map(torch.numel, tensors.values()))
    )


@pytest.mark.parametrize(
    "family", ["llama", "mpt", "falcon", "deepseek_v2", "deepseek_v3", "mixtral", "mamba", "qwen3_next", "gemma2"]
)
def test_a_network_without_values_keeps_what_the_real_one_keeps(family):
    real = adapt(build(family), None, family)
    with torch.device("meta"):
        dark = adapt(t.AutoModelForCausalLM.from_config(configuration(family)), None, family)
    assert isinstance(real, DecoderBackbone)
    assert isinstance(dark, DecoderBackbone)
    assert dark.shares == real.shares
    assert not real.shares or dark.pairs == real.pairs
