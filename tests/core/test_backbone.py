"""The Backbone contract: frozen for real, edited per call, claimed by copies; wrong edits are refused by name."""

import pytest
import torch
from pt_core.backbone import Add, Insert, KeyValue, Layout, Replace
from pt_core.errors import UserError
from pt_core.testing.tiny import TinyBackbone, TinyMethod, ToyTask
from torch import nn


def inputs(rows=3):
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(0))


def test_layout_slices_by_kind():
    layout = Layout((("class", 1), ("prompt", 3), ("token", 4)), (2, 2))
    assert len(layout) == 8
    assert layout.slice("prompt") == slice(1, 4)
    assert layout.count("token") == 4
    assert layout.slice("register") == slice(0, 0)
    assert layout.count("register") == 0


def test_nothing_makes_the_backbone_trainable_or_puts_it_in_training_mode():
    backbone = TinyBackbone()
    method = TinyMethod(None, {"backbone": backbone}, ToyTask())
    method.train().requires_grad_(True)
    assert not any(p.requires_grad for p in backbone.module.parameters())
    assert not backbone.module.training
    assert not any("net" in name or "backbone" in name for name in method.state_dict())


def test_edits_hold_for_one_call():
    backbone = TinyBackbone()
    plain = backbone(inputs()).tokens
    edited = backbone(inputs(), {"tokens[1]": Insert(torch.ones(2, 8))}).tokens
    assert not torch.allclose(plain, edited)
    assert torch.equal(backbone(inputs()).tokens, plain)


def test_kept_prompts_stay_in_the_sequence_and_dropped_ones_do_not():
    backbone = TinyBackbone()
    kept = backbone(inputs(), {"tokens[0]": Insert(torch.ones(2, 8), keep_output=True)})
    assert kept.layout == Layout((("prompt", 2), ("token", 4)))
    assert kept.part("token").shape == (3, 4, 8)
    assert kept.part("class").shape == (3, 0, 8)
    assert backbone(inputs(), {"tokens[0]": Insert(torch.ones(2, 8))}).tokens.shape == (3, 4, 8)


def test_edits_of_a_site_apply_in_order():
    backbone = TinyBackbone()
    both = [Replace(lambda h, _: h * 0), Add(lambda h, _: torch.ones_like(h))]
    assert torch.equal(
        backbone(inputs(), {"tokens[0]": both}).tokens,
        backbone(inputs(), {"tokens[0]": Replace(lambda h, _: torch.ones_like(h))}).tokens,
    )


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"token[0]": Add(lambda h, _: h)}, r"no site 'token\[0\]' \(did you mean 'tokens\[l\]'\?\)"),
        ({"tokens[2]": Add(lambda h, _: h)}, "with l below 2"),
        ({"tokens": Add(lambda h, _: h)}, "no site 'tokens'"),
        ({"pixels": Add(lambda h, _: h)}, "no site 'pixels'.*it has features"),
        ({"features": Insert(torch.ones(1, 8))}, "takes Add or Replace, not Insert"),
        ({"tokens[0]": KeyValue(torch.ones(1), torch.ones(1))}, "takes Insert or Add or Replace, not KeyValue"),
    ],
)
def test_wrong_edits_are_refused_by_name(edits, message):
    with pytest.raises(UserError, match=message):
        TinyBackbone()(inputs(), edits)


def test_claimed_weights_are_copies_that_train_while_the_backbone_stays():
    backbone = TinyBackbone()
    before = [t.clone() for t in backbone.frozen_tensors()]
    claim = backbone.claim("mlp.*")
    assert set(claim.tensors()) == {n for n, _ in backbone.module.named_parameters() if n.startswith("mlp")}
    assert torch.equal(backbone(inputs(), weights=claim).tokens, backbone(inputs()).tokens)
    backbone(inputs(), weights=claim).tokens.sum().backward()
    assert all(p.grad is not None for p in claim.parameters())
    with torch.no_grad():
        for parameter in claim.parameters():
            parameter += 1
    assert not torch.allclose(backbone(inputs(), weights=claim).tokens, backbone(inputs()).tokens)
    assert all(torch.equal(a, b) for a, b in zip(before, backbone.frozen_tensors(), strict=True))


def test_claim_that_matches_nothing_names_the_nearest():
    with pytest.raises(UserError, match="no weight of backbone 'tiny:0' matches 'positoin'.*'position'"):
        TinyBackbone().claim("positoin")


def test_claimed_weights_are_swapped_by_functional_call():
    class Tuned(TinyMethod):
        def __init__(self, *args):
            super().__init__(*args)
            self.claimed = self.backbone.claim("embed.*")

        def logits(self, values):
            return self.head(self.backbone(values, weights=self.claimed).tokens.mean(1))

        def forward(self, values):
            return self.logits(values)

    method = Tuned(None, {"backbone": TinyBackbone()}, ToyTask())
    zero = {name: torch.zeros_like(p) for name, p in method.named_parameters() if name.startswith("claimed")}
    swapped = torch.func.functional_call(method, zero, (inputs(),))
    assert not torch.allclose(swapped, method(inputs()))
    assert torch.allclose(swapped[0], swapped[1]), "with a zero embedding all inputs look alike"


def test_an_adapter_says_which_sites_take_inserted_tokens():
    class Front(TinyBackbone):
        inserts = frozenset({"features"})

    tokens = Insert(torch.ones(1, 8))
    assert Front().check_edits({"features": tokens}) == {"features": (tokens,)}
    with pytest.raises(UserError, match="takes Add or Replace, not Insert"):
        Front().check_edits({"tokens[0]": tokens})


def test_claimed_weights_hold_while_a_function_runs_and_no_longer():
    """`with_weights` serves whatever runs the module itself, such as generation."""
    backbone = TinyBackbone()
    claim = backbone.claim("embed.*")
    with torch.no_grad():
        claim.tensors()["embed.bias"].fill_(3.0)
    before = backbone.module.embed.bias

    def read():
        return backbone.module.embed.bias.clone()

    assert bool((backbone.with_weights(claim, read) == 3).all())
    assert torch.equal(backbone.with_weights(None, read), before)

    def fail():
        assert bool((read() == 3).all())
        raise ZeroDivisionError

    claim.stochastic = True
    with pytest.raises(ZeroDivisionError):
        backbone.with_weights(claim, fail)
    assert backbone.module.embed.bias is before
    assert not backbone.module.training


def test_tied_tensors_count_once_in_the_fingerprint():
    backbone = TinyBackbone()
    count = backbone.fingerprint().parameters
    tied = TinyBackbone()
    tied.module.again = tied.module.embed
    assert tied.fingerprint().parameters == count
    assert tied.fingerprint().compare(backbone.fingerprint()) == "same"


def test_dropout_of_the_backbone_is_active_only_where_a_claim_asks_for_it():
    backbone = TinyBackbone()
    backbone.module.mlp[0][1] = nn.Sequential(nn.Tanh(), nn.Dropout(0.5)).eval()
    claim = backbone.claim("*")
    same = torch.equal(backbone(inputs(), weights=claim).tokens, backbone(inputs(), weights=claim).tokens)
    claim.stochastic = True
    with torch.random.fork_rng():
        torch.manual_seed(0)
        differ = torch.equal(backbone(inputs(), weights=claim).tokens, backbone(inputs(), weights=claim).tokens)
    assert same
    assert not differ
    assert not any(m.training for m in backbone.module.modules())
    claim.eval()
    assert torch.equal(backbone(inputs(), weights=claim).tokens, backbone(inputs(), weights=claim).tokens)
