"""Language models of equal tensors that compute something else are told apart, and an artifact refuses them saying so.

In float32 a difference counts from 3e-4 of the largest score on: a tanh approximation of GELU (1e-4) or an epsilon of 1e-12 instead of 1e-5
are within what machines and kernels may differ by, and are not told apart.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pt_language
import pytest
import torch
from pt_core.errors import BackboneMismatch
from pt_core.fingerprint import TOLERANCE
from pt_core.saving import card_of, save_artifact
from pt_language.backbones import adapt, load_backbone

from tests.language import tiny as models
from tests.language.common import tiny, tokenizer


def changed(name: str, **changes: Any) -> Any:
    """The tiny model with the same tensors and other entries of its configuration."""
    plain = tiny(name).module
    config: Any = copy.deepcopy(plain.config)
    for key, value in changes.items():
        setattr(config, key, value)
    model: Any = type(plain)(config, **({"add_pooling_layer": False} if name == "bert" else {}))
    model.load_state_dict(plain.state_dict())
    return adapt(model, tokenizer(), f"changed:{name}")


ROPE = {"rope_type": "default", "rope_theta": 20_000.0}
OTHER = [
    ("llama", {"hidden_act": "gelu"}),
    ("llama", {"hidden_act": "relu"}),
    ("llama", {"rms_norm_eps": 1e-3}),
    ("llama", {"rope_parameters": ROPE}),
    ("gpt2", {"activation_function": "quick_gelu"}),
    ("gpt2", {"activation_function": "relu"}),
    ("gpt2", {"layer_norm_epsilon": 1e-3}),
    ("gpt2", {"scale_attn_weights": False}),
    ("bert", {"hidden_act": "relu"}),
    ("bert", {"layer_norm_eps": 1e-3}),
    ("bert", {"is_decoder": True}),  # reads causally
    ("t5", {"dense_act_fn": "gelu_new"}),
    ("t5", {"layer_norm_epsilon": 1e-2}),
    ("t5", {"decoder_start_token_id": 7}),
]


@pytest.mark.parametrize(("name", "changes"), OTHER, ids=[f"{name}-{'-'.join(changes)}" for name, changes in OTHER])
def test_equal_weights_in_another_network_are_told_apart(name, changes):
    plain, other = tiny(name).fingerprint(), changed(name, **changes).fingerprint()
    assert plain.exact == other.exact
    assert plain.compare(other) == "behaviour"


@pytest.mark.parametrize(
    ("name", "changes"), [("gpt2", {"activation_function": "gelu"}), ("bert", {"hidden_act": "gelu_new"})]
)
def test_an_approximated_gelu_is_within_the_tolerance(name, changes):
    plain, other = tiny(name).fingerprint(), changed(name, **changes).fingerprint()
    assert 2e-5 < plain.distance(other) < TOLERANCE["float32"]
    assert plain.compare(other) == "same"


@pytest.mark.parametrize("name", ["llama", "qwen", "mistral", "gpt2", "t5", "bert"])
def test_copies_are_the_same_and_low_precision_is_a_recast(name):
    plain = tiny(name).fingerprint()
    assert plain.compare(changed(name).fingerprint()) == "same"
    assert tiny(name, 5).fingerprint().compare(plain) == "different"
    for dtype in (torch.bfloat16, torch.float16):
        assert plain.compare(tiny(name).to("cpu", dtype).fingerprint()) == "recast"


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_attention_of_another_implementation_is_the_same_network(name):
    other = tiny(name)
    other.module.set_attn_implementation("eager")
    assert tiny(name).fingerprint().compare(other.fingerprint()) == "same"


def test_a_window_shorter_than_the_probe_shortens_it():
    assert tiny("mistral").probe()["ids"].shape == (2, 8)
    short = changed("mistral", sliding_window=5)
    assert short.probe()["ids"].shape == (2, 5)
    assert short.fingerprint().behaviour


def test_loading_refuses_another_network_and_says_so(tmp_path: Path) -> None:
    folder, plain = tmp_path / "model", models.backbone()
    plain.module.save_pretrained(folder)
    plain.tokenizer.save_pretrained(folder)
    on = load_backbone(f"local:{folder}")
    method = models.tuned("prompt_tuning", on)
    save_artifact(tmp_path / "run", method, card_of(method, "pt-language/prompt_tuning"))
    assert pt_language.load(tmp_path / "run", device="cpu").notes == []
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    said = (
        "has the weights of 'local:.*', which it was tuned on, in another network: features of a fixed probe differ by"
    )
    with pytest.raises(BackboneMismatch, match=said):
        pt_language.load(tmp_path / "run", device="cpu")
    assert pt_language.load(tmp_path / "run", device="cpu", allow_backbone_mismatch=True).notes
