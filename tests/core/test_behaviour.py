"""Equal weights in another network are told apart by what they compute; a copy in another dtype, or a reload, is not refused for it."""

import json

import pytest
import torch
from pt_core.artifact import read_artifact
from pt_core.errors import BackboneMismatch
from pt_core.fingerprint import Fingerprint
from pt_core.run.data.cache import FeatureCache
from pt_core.saving import card_of, save_artifact
from pt_core.testing.tiny import TinyBackbone, TinyMethod, ToyTask
from torch import nn


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


def network(activation=nn.GELU, epsilon=1e-5, scale=1.0, seed=0):
    """The tiny network with another activation or norm; its weights are those of `seed`."""
    backbone = TinyBackbone(seed)
    for block in backbone.module.mlp:
        block[1] = activation()
    for norm in backbone.module.norms:
        norm.eps = epsilon
    return backbone


def test_the_same_network_is_the_same():
    assert network().fingerprint().compare(network().fingerprint()) == "same"
    assert network().fingerprint().distance(network().fingerprint()) == 0
    assert network(seed=1).fingerprint().compare(network().fingerprint()) == "different"


@pytest.mark.parametrize("other", [{"activation": QuickGELU}, {"activation": nn.ReLU}, {"epsilon": 1e-2}], ids=str)
def test_another_network_of_equal_weights_is_told_apart(other):
    plain, changed = network().fingerprint(), network(**other).fingerprint()
    assert plain.exact == changed.exact
    assert plain.compare(changed) == changed.compare(plain) == "behaviour"
    assert plain.distance(changed) > 3e-4


def test_a_recast_copy_is_a_copy_and_not_another_network():
    low = network().to("cpu", torch.bfloat16)
    assert network().fingerprint().compare(low.fingerprint()) == "recast"
    other = network(nn.ReLU).to("cpu", torch.bfloat16)
    assert network().fingerprint().compare(other.fingerprint()) == "behaviour"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_in_narrow_dtypes_are_told_apart_as_in_float32(dtype, monkeypatch):
    """Their features are computed in float32, so that QuickGELU does not pass for GELU in the rounding of bf16."""
    plain, again = (network().to("cpu", dtype) for _ in range(2))
    state = {name: tensor.clone() for name, tensor in plain.module.state_dict().items()}
    assert plain.fingerprint().compare(again.fingerprint()) == "same"
    assert plain.fingerprint().probed == "float32"
    for other in ({"activation": QuickGELU}, {"epsilon": 1e-2}):
        changed = network(**other).to("cpu", dtype).fingerprint()
        assert changed.exact == plain.fingerprint().exact
        assert plain.fingerprint().compare(changed) == changed.compare(plain.fingerprint()) == "behaviour"
    assert all(torch.equal(tensor, state[name]) for name, tensor in plain.module.state_dict().items())
    assert {tensor.dtype for tensor in plain.module.state_dict().values()} == {dtype}
    stored = Fingerprint.from_json(json.loads(json.dumps(plain.fingerprint().to_json())))
    assert stored == plain.fingerprint()
    # Cards that do not say how it was computed, and networks too large to copy, are compared as loosely as that dtype needs.
    monkeypatch.setattr("pt_core.backbone.WHOLE", 10)
    rounded = network().to("cpu", dtype).fingerprint()
    assert rounded.probed == str(dtype).removeprefix("torch.")
    old = json.loads(json.dumps(rounded.to_json()))
    del old["probed"]
    for fingerprint in (rounded, Fingerprint.from_json(old)):
        assert fingerprint.compare(plain.fingerprint()) == plain.fingerprint().compare(fingerprint) == "same"


def test_a_narrow_network_that_cannot_be_copied_is_looked_at_as_it_is():
    class Fixed(TinyBackbone):
        def __deepcopy__(self, memo):
            raise RuntimeError("CUDA out of memory")

    seen = Fixed().to("cpu", torch.bfloat16).fingerprint()
    assert seen.probed == "bfloat16"
    assert seen.behaviour is not None


def test_the_behaviour_survives_json_and_unknown_ones_are_not_compared():
    seen = network().fingerprint()
    stored = Fingerprint.from_json(json.loads(json.dumps(seen.to_json())))
    assert stored.behaviour == seen.behaviour
    assert 8 <= len(stored.behaviour) <= 64
    unknown = Fingerprint(seen.exact, seen.rounded, seen.dtype, seen.parameters)
    assert unknown.compare(network(nn.ReLU).fingerprint()) == "same", "cards of format 1 know no behaviour"
    assert TinyBackbone().to("meta").behaviour() is None


def test_an_artifact_refuses_the_other_network_and_says_why(tmp_path):
    method = TinyMethod(None, {"backbone": network()}, ToyTask())
    save_artifact(tmp_path / "tuned", method, card_of(method, "toy/tiny"))
    artifact = read_artifact(tmp_path / "tuned")
    assert artifact.check_backbone("backbone", network()) == []
    with pytest.raises(
        BackboneMismatch, match=r"has the weights of 'tiny:0', .* in another network: features .* differ by 0\.\d+"
    ):
        artifact.check_backbone("backbone", network(QuickGELU))
    (note,) = artifact.check_backbone("backbone", network(QuickGELU), allow_mismatch=True)
    assert "another network" in note


def test_cached_features_belong_to_one_network(tmp_path):
    """Keyed by weights alone, the cache would return the other network's answer."""
    cache, made = FeatureCache(tmp_path), []

    def ask(backbone):
        parts = {"backbone": backbone.fingerprint().exact, "network": backbone.structure(), "data": "d", "what": "w"}

        def compute():
            made.append(backbone)
            return backbone(torch.ones(2, 4)).tokens.flatten(1)

        return cache.get(parts, 2, compute, lambda text: None).clone()

    first, second, again = ask(network()), ask(network(QuickGELU)), ask(network())
    assert len(made) == 2
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_gpus_compute_the_probe_in_whole_float32(monkeypatch):
    places, seen = (torch.backends.cuda.matmul, torch.backends.cudnn.conv), []
    before = [place.fp32_precision for place in places]
    monkeypatch.setattr(
        TinyBackbone,
        "probe_features",
        lambda self, inputs: seen.append([place.fp32_precision for place in places]) or torch.zeros(8),
    )
    network().fingerprint()
    assert seen == [["ieee", "ieee"]]
    assert [place.fp32_precision for place in places] == before


def test_the_probe_neither_draws_nor_trains():
    backbone = network()
    state = torch.get_rng_state()
    backbone.fingerprint()
    assert torch.equal(torch.get_rng_state(), state)
    assert not backbone.module.training
    assert all(parameter.grad is None for parameter in backbone.module.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert network().fingerprint().behaviour == backbone.fingerprint().behaviour


def test_what_is_not_a_number_is_no_behaviour():
    class Blind(TinyBackbone):
        def probe(self):
            return torch.full((2, 4), float("nan"))

    assert Blind().behaviour() is None
