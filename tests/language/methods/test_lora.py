"""LoRA through PEFT: shares the frozen weights, starts as the frozen model, and equals a merged copy."""

from __future__ import annotations

import pytest
import torch
from pt_core.errors import ConfigError
from pt_language.methods.icl import InContext
from pt_language.methods.lora import LoRA

from tests.language.common import batch, close, make


def test_the_frozen_weights_are_shared_not_copied():
    method = make(LoRA, rank=2)
    frozen = {id(p) for p in method.backbone.module.parameters()}
    adapted = {id(p) for n, p in method.network.module.named_parameters() if "lora_" not in n}
    assert adapted == frozen


def test_before_training_it_is_the_frozen_model():
    with torch.no_grad():
        close(make(LoRA, rank=2)(batch()), make(InContext, examples=0)(batch()))


def test_updates_equal_changed_weights():
    method = make(LoRA, rank=2, alpha=6.0)
    with torch.no_grad():
        for name, tensor in method.updates.items():
            tensor.copy_(torch.randn_like(tensor) * (0.3 if "lora_B" in name else 1.0))
        have = method(batch())
        plain = make(InContext, examples=0)
        weights = dict(plain.backbone.module.named_parameters())
        for name, down in method.updates.items():
            if "lora_A" in name:
                up = method.updates[name.replace("lora_A", "lora_B")]
                weights[name.replace("/", ".").split(".lora_A")[0] + ".weight"].add_(up @ down * 3.0)
        close(have, plain(batch()), 2e-5)


def test_layers_that_do_not_exist_are_named():
    with pytest.raises(ConfigError, match="LoRA cannot adapt 'tiny:llama-0'.*nowhere"):
        make(LoRA, targets=("nowhere",))
