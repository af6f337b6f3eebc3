"""Both towers give what open_clip gives, whatever their family; fast paths equal the reference; what does not fit is refused."""

from __future__ import annotations

import pytest
import torch
from pt_core.backbone import Add, Insert
from pt_core.errors import BackboneMismatch, UserError
from pt_core.kernels import reference_kernels
from pt_vision.adapters.clip import words
from pt_vision.adapters.clip.load import adapt_pair
from pt_vision.adapters.clip.rows import Context
from torch.nn import functional as F

from tests.vision.clip.networks import KINDS, nano, pair, shared_nano

NAMES = ["cat", "golden retriever", "aeroplane", "old oak tree"]
CAUSAL = ["clip", "eos", "cosine", "scaled", "custom"]
WHOLE = ["siglip", "coca", "first"]


def pictures(backbone, count=2):
    return torch.randn(count, *backbone.image.preprocessing["input_size"], generator=torch.Generator().manual_seed(1))


def close(have, want, tolerance=1e-5):
    torch.testing.assert_close(have, want, rtol=tolerance, atol=tolerance * float(want.abs().max().clamp(min=1)))


def as_context(dual, text):
    return dual.text.word_vectors(text)


@pytest.mark.parametrize("kind", KINDS)
def test_towers_equal_the_library(kind):
    network = pair(kind)
    dual = adapt_pair(network, "tiny")
    texts = network.tokenizer([f"a photo of a {name}." for name in NAMES], context_length=16)
    with torch.no_grad():
        images = pictures(dual)
        want = network.module.encode_text(texts, normalize=False), network.module.encode_image(images, normalize=False)
        close(dual.text.encode_words(NAMES, ["a photo of a {}."]), want[0])
        close(dual.text(texts).extra["pooled"], want[0])
        close(dual.image(images).extra["pooled"], want[1])
        want_logits = float(network.module.logit_scale.exp()) * F.normalize(want[1]) @ F.normalize(want[0]).T
        bias = network.module.logit_bias
        close(dual.compare(want[1], want[0]), want_logits + (0 if bias is None else bias))
    assert dual.image.pool(dual.image(images)).shape[1] == dual.image.feature_dim == want[0].shape[1]


@pytest.mark.parametrize("kind", [*CAUSAL, *WHOLE])
@pytest.mark.parametrize(
    ("place", "written"), [("end", "a photo of {}."), ("middle", "a photo {} of."), ("front", "{} a photo of.")]
)
def test_word_vectors_as_context_are_those_words(kind, place, written):
    """Every layout: embeddings of words in the context's places give what the library gives for the same words as a string."""
    network = pair(kind)
    dual = adapt_pair(network, "tiny")
    context = as_context(dual, "a photo of")
    if place == "middle":  # M // 2 before the name
        written = "a {} photo of."
    with torch.no_grad():
        texts = network.tokenizer([written.replace("{}", name) for name in NAMES], context_length=16)
        want = network.module.encode_text(texts, normalize=False)
        close(dual.text.encode_words(NAMES, ["{}."], {"input": Context(context, place=place)}), want)


def tuned(dual, shape, *layers, place="end", seed=0):
    rng = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(shape, generator=rng).requires_grad_() for _ in range(1 + len(layers))]
    edits = {"input": Context(tensors[0], place=place)}
    edits |= {f"tokens[{layer}]": Insert(tensor) for layer, tensor in zip(layers, tensors[1:], strict=True)}
    return tensors, edits


SHAPES = {"shared": (4, 48), "per_class": (4, 4, 48), "per_sample": (3, 1, 4, 48), "per_both": (3, 4, 4, 48)}


@pytest.mark.parametrize("kind", ["clip", "cosine", "siglip", "coca", "eos"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("place", ["end", "middle", "front"])
@pytest.mark.parametrize("budget", [words.BUDGET, 1])
def test_fast_paths_equal_the_reference(monkeypatch, kind, shape, place, budget):
    """Cut, shared beginning and chunks of one class with recomputation: values and gradients of the whole rows."""
    monkeypatch.setattr(words, "BUDGET", budget)
    dual = shared_nano(kind)
    tensors, edits = tuned(dual, SHAPES[shape], 1, 2, place=place)

    def run():
        found = dual.text.encode_words(NAMES, ["{}."], edits)
        weight = torch.linspace(-1, 1, found.numel()).view_as(found)
        return found.detach(), torch.autograd.grad((F.normalize(found, dim=-1) * weight).sum(), tensors)

    have, gradients = run()
    with reference_kernels():
        want, want_gradients = run()
    assert have.shape == ((3, 4, 24) if len(SHAPES[shape]) == 4 else (4, 24))
    close(have, want)
    for gradient, other in zip(gradients, want_gradients, strict=True):
        assert bool(other.any())
        close(gradient, other)


def test_claimed_weights_reach_recomputed_chunks(monkeypatch):
    """Gradient of swapped weights through chunks that run again, as through the reference."""
    dual = shared_nano()
    name = "transformer.resblocks.1.mlp.c_fc.weight"
    weight = (dict(dual.text.module.named_parameters())[name] * 1.5).detach().requires_grad_()

    def run():
        found = dual.text.encode_words(NAMES, ["a {}."], weights={name: weight})
        return found.detach(), torch.autograd.grad(found.square().sum(), weight)[0]

    monkeypatch.setattr(words, "BUDGET", 1)
    have, gradient = run()
    with reference_kernels():
        want, other = run()
    close(have, want)
    close(gradient, other)
    assert not torch.allclose(have, dual.text.encode_words(NAMES, ["a {}."]))


def test_the_beginning_is_encoded_once_and_rows_are_cut():
    """The blocks see the shared beginning in one row, and behind it no more than the longest name needs."""
    dual, seen = shared_nano(), []
    hook = dual.text.module.transformer.resblocks[1].ln_1.register_forward_hook(
        lambda _, given, out: seen.append(tuple(out.shape))
    )
    try:
        dual.text.encode_words(NAMES, ["{}."], {"input": Context(torch.zeros(6, 48))})
    finally:
        hook.remove()
    assert seen == [
        (1, 7, 48),
        (4, 5, 48),
    ]  # start token and context; three tokens of a name, a full stop, the end token


@pytest.mark.parametrize("kind", WHOLE)
def test_towers_that_are_not_causal_run_whole(kind):
    dual = shared_nano(kind)
    ids = dual.text.framing.rows([[5], [6, 7]])
    assert dual.text.needed(ids) == 16
    if kind != "coca":  # causal, but pooled at a token behind all others
        assert not dual.text.causal


def test_deep_tokens_take_the_places_of_the_context():
    """What leaves block 0 at the context's places is thrown away where block 1 has tokens of its own, and goes on where it has none."""
    dual, left = shared_nano(), []

    def keep(module, given, out):
        out.retain_grad()
        left.append(out)

    _, edits = tuned(dual, (4, 48), 1)
    hooks = [block.register_forward_hook(keep) for block in dual.text.module.transformer.resblocks[:2]]
    try:
        with reference_kernels():
            dual.text.encode_words(NAMES, ["{}."], edits).square().sum().backward()
    finally:
        for hook in hooks:
            hook.remove()
    first, second = (out.grad for out in left)
    assert not bool(first[:, 1:5].any())
    assert bool(first[:, 5:7].any())
    assert bool(second[:, 1:5].any())


def test_too_long_names_the_class_and_the_longest_context():
    dual = shared_nano()
    with pytest.raises(
        UserError, match=r"class 'old oak tree' in '\{\}\.' with a context of 12 needs 16 .* room for 14: .* fits is 10"
    ):
        dual.text.encode_words(NAMES, ["{}."], {"input": Context(torch.zeros(12, 48))})
    with pytest.raises(UserError, match="shorten its name"):
        dual.text.encode_words(["cat", "very " * 20], ["a {}"])
    with pytest.raises(UserError, match="once"):
        dual.text.encode_words(NAMES, ["a photo"])
    with pytest.raises(UserError, match="runs into"):
        dual.text.encode_words(["c++", "java"], ["{}."], {"input": Context(torch.zeros(2, 48), place="front")})
    with pytest.raises(UserError, match="starts with it"):
        dual.text.encode_words(NAMES, ["a {}."], {"input": Context(torch.zeros(2, 48), place="middle")})
    with pytest.raises(UserError, match=r"takes context tokens \(m, 48\)"):
        dual.text.encode_words(NAMES, ["{}."], {"input": Context(torch.zeros(2, 47))})
    with pytest.raises(UserError, match="as many of them"):
        dual.text.encode_words(
            NAMES, ["{}."], {"input": Insert(torch.zeros(2, 48)), "tokens[1]": Insert(torch.zeros(3, 48))}
        )


def test_an_end_token_that_is_never_written_is_refused():
    with pytest.raises(UserError, match="pools at token 2, which its tokenizer never writes"):
        nano(kind="eos", text={"pool_type": "eos", "eos_id": 2})


@pytest.mark.parametrize("kind", ["clip", "avg", "scaled", "cosine", "siglip", "coca"])
def test_visual_prompts_as_keys_and_values_equal_concatenation(kind):
    dual = shared_nano(kind)
    images, rng = pictures(dual, 3), torch.Generator().manual_seed(3)
    first, deep = (torch.randn(2, 32, generator=rng).requires_grad_() for _ in range(2))

    def run():
        pooled = dual.image(images, {"tokens[0]": Insert(first), "tokens[1]": Insert(deep)}).extra["pooled"]
        return pooled.detach(), torch.autograd.grad(pooled.square().sum(), (first, deep))

    have, gradients = run()
    with reference_kernels():
        want, others = run()
    close(have, want)
    for gradient, other in zip(gradients, others, strict=True):
        assert bool(other.any())
        close(gradient, other, 1e-4)
    assert not torch.allclose(have, dual.image(images).extra["pooled"])
    none = dual.image(images, {"tokens[0]": Insert(torch.zeros(0, 32))}).extra["pooled"]
    close(none, dual.image(images).extra["pooled"])


def test_prompts_before_the_first_norm_go_through_it():
    dual = shared_nano()
    images, prompt = pictures(dual), torch.randn(2, 32, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        before = dual.image(images, {"embedded": Insert(prompt, keep_output=True)})
        behind = dual.image(images, {"tokens[0]": Insert(dual.image.enter(prompt), keep_output=True)})
        close(before.extra["pooled"], behind.extra["pooled"])
        assert before.part("prompt").shape == (2, 2, 32)
        raw = dual.image(images, {"tokens[0]": Insert(prompt, keep_output=True)})
        assert not torch.allclose(before.extra["pooled"], raw.extra["pooled"])
        moved = dual.image(images, {"embedded": Add(lambda hidden, layout: torch.ones_like(hidden) * torch.arange(32))})
        assert not torch.allclose(moved.extra["pooled"], raw.extra["pooled"])
    with pytest.raises(UserError, match="keep_output=True"):
        dual.image(images, {"embedded": Insert(prompt)})


def test_a_resnet_tower_is_refused_by_name_for_visual_prompts():
    dual = shared_nano("resnet")
    with pytest.raises(UserError, match=r"ModifiedResNet, which has no token sequence.*coop"):
        dual.image.require_tokens()
    with pytest.raises(UserError, match="no site"):
        dual.image(pictures(dual), {"tokens[0]": Insert(torch.zeros(2, 8))})
    with pytest.raises(UserError, match="takes 64x64"):
        dual.image(torch.zeros(1, 3, 32, 32))


def test_gelu_and_quick_gelu_of_the_same_weights_are_told_apart():
    plain, quick = nano(), nano(kind="quick_gelu")
    for part in ("image", "text"):
        ours, theirs = plain.parts[part], quick.parts[part]
        for (name, tensor), other in zip(ours.module.named_parameters(), theirs.module.parameters(), strict=True):
            assert torch.equal(tensor, other), name
        a, b = ours.fingerprint(), theirs.fingerprint()
        assert a.behaviour != b.behaviour
        assert max(abs(x - y) for x, y in zip(a.behaviour, b.behaviour, strict=True)) > 1e-3


def test_the_refusal_names_both(tmp_path):
    from pt_core.artifact import read_artifact
    from pt_core.run.tasks.classification import Classification
    from pt_core.saving import card_of, save_artifact
    from pt_vision.methods.clip.coop import CoOp, CoOpConfig

    method = CoOp(CoOpConfig(context_length=4), {"backbone": nano()}, Classification(NAMES))
    save_artifact(tmp_path / "tuned", method, card_of(method, "pt-vision/coop"))
    artifact = read_artifact(tmp_path / "tuned")
    assert artifact.check_backbone("backbone", nano()) == []
    with pytest.raises(BackboneMismatch, match="nano-clip-0"):
        artifact.check_backbone("backbone", nano(kind="quick_gelu"))
