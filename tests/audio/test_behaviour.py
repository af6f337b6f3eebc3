"""Encoders, language models and text models of equal tensors that compute something else are told apart; see pt_core/fingerprint.py for
what counts as equal (3e-4 of the largest value in float32)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from pt_audio.adapters import kwt, vit
from pt_audio.adapters.encoders import ASTEncoder, AudioMAEEncoder, KwtEncoder
from pt_audio.adapters.kwt import Kwt, KwtFront
from pt_audio.adapters.logmel import LogMel
from pt_audio.adapters.text_model import TextModel
from pt_audio.adapters.vit import AudioViT
from pt_core.errors import BackboneMismatch
from pt_core.randomness import seeded
from torch import nn
from torch.nn import functional as F

from tests.audio import tiny

KWT = {"dim": 16, "tokens": 99, "heads": 2, "mlp": 32, "layers": 2, "layer_norm_eps": 1e-5, "labels": ["a", "b"]}
AST = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_length": 48,
    "num_mel_bins": 32,
}


def kwt_encoder(**changes: Any) -> KwtEncoder:
    front = KwtFront({"window": torch.ones(480), "norm_scale": torch.ones(40)}, 1e-6, 0.0)
    with seeded(0, "kwt"):
        return KwtEncoder(Kwt({**KWT, **changes}, 40), front, "tiny:kwt")


def ast_encoder(**changes: Any) -> ASTEncoder:
    with seeded(0, "ast"):
        module = tiny.louder(transformers.ASTModel(transformers.ASTConfig(**{**AST, **changes})))
    return ASTEncoder(module, LogMel(frames=48, bins=32), "tiny:ast")


def vit_encoder() -> AudioMAEEncoder:
    with seeded(0, "encoder"):
        return AudioMAEEncoder(AudioViT(tiny.VIT), tiny.FRONT, "tiny:vit")


def changed(plain: Any, **changes: Any) -> Any:
    """The adapter around a network of the same tensors and another configuration."""
    config: Any = copy.deepcopy(plain.module.config)
    for key, value in changes.items():
        setattr(config, key, value)
    more = {"add_pooling_layer": False} if isinstance(plain, TextModel) else {}
    module: Any = type(plain.module)(config, **more)
    module.load_state_dict(plain.module.state_dict())
    return type(plain)(module, plain.tokenizer, "changed")


OTHER = {
    "lm activation": (tiny.lm, lambda: changed(tiny.lm(), hidden_act="gelu")),
    "lm epsilon": (tiny.lm, lambda: changed(tiny.lm(), rms_norm_eps=1e-3)),
    "lm rope": (
        tiny.lm,
        lambda: changed(tiny.lm(), rope_parameters={"rope_type": "default", "rope_theta": 100_000.0}),
    ),
    "text activation": (tiny.text, lambda: changed(tiny.text(), hidden_act="relu")),
    "text causal": (tiny.text, lambda: changed(tiny.text(), is_decoder=True)),
    "kwt epsilon": (kwt_encoder, lambda: kwt_encoder(layer_norm_eps=1e-2)),
    "kwt heads": (kwt_encoder, lambda: kwt_encoder(heads=4)),
    "ast activation": (ast_encoder, lambda: ast_encoder(hidden_act="relu")),
    "ast epsilon": (ast_encoder, lambda: ast_encoder(layer_norm_eps=1e-2)),
    "ast heads": (ast_encoder, lambda: ast_encoder(num_attention_heads=4)),
}


@pytest.mark.parametrize("name", OTHER)
def test_equal_weights_in_another_network_are_told_apart(name):
    plain, other = (make().fingerprint() for make in OTHER[name])
    assert plain.exact == other.exact
    assert plain.compare(other) == "behaviour"


@pytest.mark.parametrize("change", ["activation", "epsilon", "heads", "positions"])
def test_the_audio_transformer_is_told_apart(change, monkeypatch):
    plain = vit_encoder().fingerprint()
    other = vit_encoder()
    module: Any = other.module
    if change == "activation":
        monkeypatch.setattr(vit.Mlp, "forward", lambda self, x: self.fc2(F.relu(self.fc1(x))))
    elif change == "epsilon":
        for block in module.blocks:
            block.norm1.eps = block.norm2.eps = 1e-2
    elif change == "heads":
        for block in module.blocks:
            block.attn.heads = 4
    else:
        plain_forward = vit.AudioViT.forward

        def shifted(self, spectrogram, keep=None):
            return plain_forward(self, spectrogram.roll(1, 1), keep)

        monkeypatch.setattr(vit.AudioViT, "forward", shifted)
    assert plain.compare(other.fingerprint()) == "behaviour"


@pytest.mark.parametrize("make", [vit_encoder, kwt_encoder, ast_encoder, tiny.lm, tiny.text])
def test_copies_are_the_same_and_low_precision_is_a_recast(make):
    plain = make().fingerprint()
    assert len(plain.behaviour or ()) > 32
    assert plain.compare(make().fingerprint()) == "same"
    for dtype in (torch.bfloat16, torch.float16):
        assert plain.compare(make().to("cpu", dtype).fingerprint()) == "recast"


def test_an_artifact_refuses_another_network_and_says_so(tmp_path):
    from pt_core.artifact import read_artifact
    from pt_core.saving import card_of, save_artifact

    method = tiny.tuned()
    save_artifact(tmp_path / "run", method, card_of(method, "pt-audio/acoustic_apt"))
    artifact = read_artifact(tmp_path / "run")
    for role, backbone in tiny.backbones().items():
        assert artifact.check_backbone(role, backbone) == []
    with pytest.raises(BackboneMismatch, match="in another network: features of a fixed probe differ"):
        artifact.check_backbone("lm", changed(tiny.lm(), hidden_act="gelu"))
    with pytest.raises(BackboneMismatch, match="in another network"):
        artifact.check_backbone("text", changed(tiny.text(), hidden_act="relu"))
    encoder = tiny.encoder()
    for norm in (module for module in encoder.module.modules() if isinstance(module, nn.LayerNorm)):
        norm.eps = 1e-2
    with pytest.raises(BackboneMismatch, match="in another network"):
        artifact.check_backbone("encoder", encoder)


def test_the_keyword_transformer_uses_its_own_activation(monkeypatch):
    plain = kwt_encoder().fingerprint()
    forward = kwt.KwtBlock.forward

    def exact(self, x):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kwt.F, "gelu", lambda x, approximate="none": F.relu(x))
            return forward(self, x)

    monkeypatch.setattr(kwt.KwtBlock, "forward", exact)
    assert plain.compare(kwt_encoder().fingerprint()) == "behaviour"
