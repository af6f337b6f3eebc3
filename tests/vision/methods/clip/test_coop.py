"""CoOp: counts, identity with the words it starts from, other classes, cached pictures, the released schedule."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from pt_core.errors import ConfigError, UserError
from pt_core.run.declare.options import TrainOptions
from pt_core.run.tasks.classification import Classification
from pt_core.run.train.features import with_features
from pt_core.run.train.optim import lr_factor
from pt_core.run.train.world import World
from pt_core.testing import BadInput
from pt_core.testing._support import copies, train
from pt_vision import load_backbone
from pt_vision.methods.clip.coop import CoOp, CoOpConfig
from pt_vision.methods.clip.zero_shot import ZeroShot

from tests.vision.clip.networks import nano, pair
from tests.vision.methods.clip.common import DATA, OPTIONS, case, conformance, make, seeded_make

NAMES = ["cat", "golden_retriever", "old oak tree"]
BAD = (
    BadInput("too long", lambda: make(CoOp), r"context of 16 needs .* longest context that fits is 12"),
    BadInput("same text", lambda: make(CoOp, names=["a_b", "a b"], context_length=2), "both named 'a b'"),
    BadInput("empty", lambda: make(CoOp, names=["_", "b"], context_length=2), "empty name"),
    BadInput("word of several tokens", lambda: make(CoOp, words="a photozoic of"), "'photozoic' is . tokens"),
    BadInput("no words", lambda: make(CoOp, words=" "), "words is empty"),
    BadInput(
        "contradiction", lambda: make(CoOp, words="a photo of a", context_length=3), "4 tokens, context_length is 3"
    ),
)
CASES = {
    "unified": replace(case(CoOp, "clip", 4 * 48, context_length=4), bad_inputs=BAD),
    "class_specific": case(CoOp, "clip", 3 * 4 * 48, context_length=4, class_specific=True, name_at="middle"),
    "siglip": case(CoOp, "siglip", 4 * 48, words="a photo of a", name_at="front"),
    "custom": case(CoOp, "custom", 3 * 48, context_length=3, name_at="middle"),
}


@pytest.mark.parametrize(("one", "check"), conformance(CASES))
def test_conformance(one, check, tmp_path):
    check(one, tmp_path)


def test_counts_of_published_sizes():
    backbone = {"backbone": load_backbone("open_clip:ViT-B-16", device="meta")}
    task = Classification([f"class {number}" for number in range(10)])
    assert CoOp(CoOpConfig(), backbone, task).parameter_count() == 16 * 512
    assert CoOp(CoOpConfig(class_specific=True), backbone, task).parameter_count() == 10 * 16 * 512


@pytest.mark.parametrize("kind", ["clip", "siglip", "eos", "coca"])
def test_before_training_it_is_the_text_of_its_words(kind):
    network = pair(kind)
    method = make(CoOp, kind, NAMES, words="a photo of a")
    texts = network.tokenizer([f"a photo of a {name.replace('_', ' ')}." for name in NAMES], context_length=16)
    with torch.no_grad():
        want = network.module.encode_text(texts, normalize=False)
    torch.testing.assert_close(method.class_vectors(), want, rtol=1e-5, atol=1e-5)
    zero = make(ZeroShot, kind, NAMES)
    batch = DATA["val"].batch()
    torch.testing.assert_close(method(batch), zero(batch), rtol=1e-4, atol=1e-4)


def test_only_the_context_is_trained_and_other_classes_are_told(tmp_path):
    method = train(CASES["unified"], tmp_path / "run")
    assert list(method.own_tensors()) == ["context"]
    other = method.retarget(Classification(NAMES))
    batch = DATA["val"].batch()
    with torch.no_grad():
        method.eval()
        before = copies({"logits": method(batch)})["logits"]
        edits_same = make(CoOp, names=NAMES, context_length=4)
        edits_same.context.data.copy_(method.context)
        torch.testing.assert_close(other(batch), edits_same(batch))
        assert other.context is method.context
        assert torch.equal(method(batch), before)  # what is kept for one class list is not taken for another
    with pytest.raises(UserError, match="fixed label space"):
        make(CoOp, context_length=4, class_specific=True).retarget(Classification(NAMES))


def test_vectors_are_kept_until_the_context_changes():
    method, batch = seeded_make(CoOp, context_length=4).eval(), DATA["val"].batch()
    calls, encode = [], method.backbone.text.encode_words
    method.backbone.text.encode_words = lambda *given: calls.append(1) or encode(*given)
    with torch.no_grad():
        first, again = method(batch), method(batch)
        assert len(calls) == 1
        assert torch.equal(first, again)
        method.context.mul_(3)
        assert not torch.allclose(method(batch), first)
    assert len(calls) == 2


def test_training_on_kept_pictures_gives_the_same_context(tmp_path):
    want = train(CASES["unified"], tmp_path / "pixels").context
    method, asked = seeded_make(CoOp, context_length=4), []

    def store(key, dataset, compute):
        asked.append(key)
        return torch.cat(list(compute(range(len(dataset)))))

    data = {role: with_features(method, dataset, World(OPTIONS), 8, store) for role, dataset in DATA.items()}
    assert asked == ["image/pooled"] * 2
    method.backbone.image.module.forward = None  # the image tower is not needed any more
    have = train(replace(CASES["unified"], data=data), tmp_path / "features", method).context
    torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-6)


def test_a_wide_context_keeps_the_vectors_of_a_narrow_one():
    method = seeded_make(CoOp, context_length=6)
    earlier = torch.ones(4, 48)
    grown = method.resized("context", earlier, method.context.shape)
    assert torch.equal(grown[:4], earlier)
    assert torch.equal(grown[4:], method.context[4:])


@pytest.mark.parametrize("epochs", [2, 5, 10, 50])
def test_released_schedule(epochs):
    """1e-5 in the first epoch, then lr / 2 (1 + cos(pi (e - 1) / E)), which does not reach 0."""
    options = TrainOptions(**{**CoOp.recipe, "epochs": epochs})
    per_epoch = 3
    for step in range(epochs * per_epoch):
        epoch = step // per_epoch
        want = 1e-5 if epoch == 0 else 0.002 / 2 * (1 + math.cos(math.pi * (epoch - 1) / epochs))
        have = options.lr * lr_factor(step, epochs * per_epoch, per_epoch, options)
        assert have == pytest.approx(want, rel=1e-12)


def test_a_single_network_is_refused():
    with pytest.raises(ConfigError, match="needs an image and a text tower"):
        CoOp(CoOpConfig(), {"backbone": load_backbone("builtin:vit_glyphs")}, Classification(NAMES))
    from pt_vision.methods.classification.linear import LinearConfig, LinearProbe

    with pytest.raises(ConfigError, match="pair of towers"):
        LinearProbe(LinearConfig(), {"backbone": nano()}, Classification(NAMES))
