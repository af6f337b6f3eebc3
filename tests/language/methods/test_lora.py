"""LoRA through PEFT: shares the frozen weights, starts as the frozen model, and equals a merged copy."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pt_core.artifact import Artifact
from pt_core.errors import ConfigError, UserError
from pt_core.randomness import keyed
from pt_core.saving import card_of
from pt_language.methods.icl import InContext
from pt_language.methods.lora import LoRA
from torch.func import functional_call

from tests.language.common import batch, close, make


def moved(**options: Any) -> Any:
    """A method whose updates do something."""
    method: Any = make(LoRA, **{"rank": 2, **options})
    torch.manual_seed(5)
    with torch.no_grad():
        for name, tensor in method.updates.items():
            tensor.copy_(torch.randn_like(tensor) * (0.3 if "lora_B" in name else 1.0))
    return method


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


def test_the_method_is_a_function_of_its_tensors_and_copies_share_the_network():
    method, one = moved(), batch()
    other = copy.deepcopy(method)
    assert other.network.module is method.network.module
    with torch.no_grad():
        want = method(one)
        close(other(one), want)
        for tensor in other.updates.values():
            tensor.mul_(1.5)
        changed = other(one)
        assert not torch.allclose(changed, want)
        close(method(one), want)
        swapped = {name: tensor.detach() for name, tensor in other.named_parameters()}
        close(functional_call(method, swapped, (one,)), changed)


def test_it_follows_the_backbone_to_another_dtype():
    method = moved()
    method.backbone.module.double()
    with torch.no_grad():
        have = method.double()(batch())
        assert have.dtype == torch.float64
        close(have.float(), moved()(batch()), 1e-4)


@pytest.mark.parametrize(
    ("name", "scoring"), [("llama", "words"), ("gpt2", "words"), ("t5", "words"), ("bert", "head")]
)
def test_folded_weights_are_the_same_function(name, scoring):
    method: Any = make(LoRA, name, scoring, rank=2, alpha=6.0)
    torch.manual_seed(5)
    with torch.no_grad():
        for tensor in method.updates.values():
            tensor.copy_(torch.randn_like(tensor) * 0.3)
        one = batch(name, method.task)
        want = method(one)
        plain: Any = make(LoRA, name, scoring, rank=2)
        if plain.head is not None:
            plain.head.load_state_dict(method.head.state_dict())
        plain.backbone.replaced(method.folded()["backbone"], "run:lora")
        close(plain(one), want, 2e-5)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_an_update_of_a_tied_weight_cannot_be_folded_in():
    method = moved(targets=("embed_tokens",))
    with pytest.raises(UserError, match=r"'model.embed_tokens.weight' is used by two layers"):
        method.folded()


def test_dropout_draws_by_sample():
    method, one = moved(dropout=0.5), batch()
    with torch.no_grad():
        first = method(keyed(one, "step", 0))
        close(method(keyed(one, "step", 0)), first)
        assert not torch.allclose(method(keyed(one, "step", 1)), first)
        close(method.eval()(keyed(one, "step", 0)), moved()(one))


@pytest.mark.parametrize(("rank", "alpha"), [(2, 6.0), (2, 3.0), (5, 8.0), (1, 4.0)])
def test_another_rank_and_alpha_start_as_the_same_function(rank, alpha):
    earlier = moved(alpha=6.0)
    if rank == 1:  # an update of rank 1 can be told by rank 1
        with torch.no_grad():
            for name, tensor in earlier.updates.items():
                if "lora_B" in name:
                    tensor[:, 1] = 0
    card = card_of(earlier, "pt-language/lora")
    artifact = Artifact(folder=None, card=card, tensors=earlier.export("predict"), training={})  # type: ignore[arg-type]
    later = make(LoRA, rank=rank, alpha=alpha)
    later.warm_start("", artifact)
    with torch.no_grad():
        close(later(batch()), earlier(batch()), 2e-5)
