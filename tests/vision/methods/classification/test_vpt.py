"""VPT does what its paper says: the acceptance checks of the method, and every option against a slow loop that concatenates."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from pt_core import Batch
from pt_core.errors import ArtifactError, ConfigError, DataError
from pt_core.kernels import reference_kernels
from pt_core.run.declare.options import TrainOptions, build_all
from pt_core.run.tasks.classification import Classification
from pt_core.run.train.optim import lr_factor
from pt_core.testing import BadInput
from pt_core.testing._support import train
from pt_vision.adapters import adapt
from pt_vision.adapters.base import VisionBackbone
from pt_vision.classification.heads import BIAS, RowNorm
from pt_vision.methods.classification.linear import LinearProbe
from pt_vision.methods.classification.vpt import VPT, VPTConfig
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from tests.vision.methods.classification.common import (
    DATA,
    case,
    conformance,
    double,
    head_values,
    large,
    make,
    on_large,
    seeded_make,
    steps,
    task,
    tiny,
)
from tests.vision.nets import SIZE, close, randomise

SHALLOW: dict[str, Any] = {"mode": "shallow"}
HEAD = 3 * 32 + 3
SWIN_WIDTHS = 2 * 16 + 2 * 32  # depths (2, 2)


def refuse(**options: Any) -> Any:
    return lambda: build_all({"config": VPTConfig}, options)


def restore_other_shape() -> None:
    make(VPT, prompt_length=4).restore("predict", make(VPT, prompt_length=6).export("predict"))


BAD = (
    BadInput("negative length", refuse(prompt_length=-1), "prompt_length=-1"),
    BadInput("length that is no number", refuse(prompt_length="many"), "prompt_length='many'"),
    BadInput("length that is no integer", refuse(prompt_length=2.5), "prompt_length=2.5"),
    BadInput("no depth", refuse(depth=0), "depth=0"),
    BadInput("too deep", lambda: make(VPT, depth=4), "depth=4 exceeds the 3 blocks of 'tiny:class'"),
    BadInput("dropout of everything", refuse(prompt_dropout=1.0), "prompt_dropout=1.0"),
    BadInput("deep pixels", refuse(location="pad"), "location='pad'.*'prepend', 'add' or 'add_one'"),
    BadInput("misspelt option", refuse(prompt_lenght=3), "prompt_lenght.*did you mean 'prompt_length'"),
    BadInput("shallow with depth", refuse(mode="shallow", depth=2), "belong to mode='deep'"),
    BadInput("shallow and shared", refuse(mode="shallow", shared=True), "belong to mode='deep'"),
    BadInput("added vectors projected", refuse(location="add", projection=4), "need 'prepend'"),
    BadInput("pool of no prompts", refuse(prompt_length=0, pool="prompt"), "prompt_length >= 1"),
    BadInput("class token of a network without", lambda: run_once("no_class", pool="class"), "has no class token"),
    BadInput("added vectors in stages", lambda: make(VPT, "swin_shifted", location="add"), "'tiny:swin_shifted' has stages"),
    BadInput("class means in stages", lambda: make(VPT, "swin_shifted", init="class_means"), "one width in all blocks"),
    BadInput("class means projected", lambda: make(VPT, init="class_means", projection=4), "no projection"),
    BadInput("prompts of another shape", restore_other_shape, r"\(3, 6, 32\).*\(3, 4, 32\)"),
    BadInput("pictures of another size", lambda: make(VPT)(pictures(40)), "images are 40x40, backbone 'tiny:class' takes 32x32"),
    BadInput("one class", lambda: Classification(["only"]), "at least 2 classes"),
)  # fmt: skip

CASES = {
    "deep": replace(case(VPT, "class", 3 * 5 * 32 + HEAD), bad_inputs=BAD),
    "shallow": case(VPT, "class", 5 * 32 + HEAD, mode="shallow"),
    "deep_swin": case(VPT, "swin_shifted", 5 * SWIN_WIDTHS + HEAD),
    "shallow_swin": case(VPT, "swin_shifted", 5 * 16 + HEAD, mode="shallow", pool="all", prompt_dropout=0.2),
    "class_means": case(VPT, "class", 3 * 5 * 32 + HEAD, init="class_means"),
    "projected": case(VPT, "registers", 3 * 5 * 8 + 8 * 32 + 32 + HEAD, projection=8, depth=3),
    # With seed 0 a hidden unit is next to dead: BatchNorm divides rounding by its deviation.
    "deep_head": steps(
        case(VPT, "mae", 3 * 5 * 32 + 32 * 32 + 32 + 64 + HEAD, head_layers=1, pool="all_but_class"), seed=2
    ),
    "added": case(VPT, "class", 3 * 17 * 32 + HEAD, location="add"),
    "concatenated": case(VPT, "eva_rope", 3 * 5 * 32 + HEAD),
}


def pictures(side: int) -> Batch:
    return Batch(torch.zeros(2, 3, side, side), torch.zeros(2, dtype=torch.long), torch.arange(2), ["a", "b"])


def run_once(name: str, **options: Any) -> Tensor:
    return seeded_make(VPT, name, **options)(DATA["val"].batch())


@pytest.mark.parametrize(("one", "check"), conformance(CASES, fresh=("deep",)))
def test_conformance(one, check, tmp_path):
    check(one, tmp_path)


# ---- 1. counts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode", "count"),
    [
        ("vit_base_patch16_224", "shallow", 11_530),
        ("vit_base_patch16_224", "deep", 53_770),
        ("vit_small_patch16_224", "shallow", 5_770),
        ("vit_small_patch16_224", "deep", 26_890),
        ("swin_base_patch4_window7_224", "shallow", 5 * 128 + 10_250),
        ("swin_base_patch4_window7_224", "deep", 5 * (2 * 128 + 2 * 256 + 18 * 512 + 2 * 1024) + 10_250),
    ],
)
def test_counts_of_published_networks(name, mode, count):
    assert on_large(VPT, name, 10, mode=mode, prompt_length=5).parameter_count() == count


# ---- 2. nothing inserted, nothing changed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["class", "registers", "no_class", "mae", "siglip", "eva", "swin_shifted"])
@pytest.mark.parametrize("mode", ["deep", "shallow"])
def test_no_prompts_is_linear_probing_bit_for_bit(name, mode):
    prompted, linear = seeded_make(VPT, name, mode=mode, prompt_length=0), seeded_make(LinearProbe, name)
    linear.head.load_state_dict(prompted.head.state_dict())
    batch = DATA["val"].batch()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert torch.equal(prompted(batch), linear(batch))


@pytest.mark.parametrize("mode", ["deep", "shallow"])
def test_blocked_prompt_keys_give_the_plain_network(mode, monkeypatch):
    method, x = double(VPT, mode=mode, prompt_length=4), DATA["val"].batch().inputs.double()
    plain = method.backbone(x).part("class")
    attention = F.scaled_dot_product_attention

    def block_prompts(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        mask = torch.zeros(q.shape[2], k.shape[2], dtype=q.dtype)
        mask[:, 1:5] = float("-inf")  # class, 4 prompts, patches
        return attention(q, k, v, attn_mask=mask, scale=options.get("scale"))

    with reference_kernels():
        free = method.backbone(x, method.edits(len(x))).part("class")
        monkeypatch.setattr(F, "scaled_dot_product_attention", block_prompts)
        blocked = method.backbone(x, method.edits(len(x))).part("class")
    close(blocked, plain)
    assert (free - plain).abs().max() > 1e-3


# ---- 3. the slow reference, and every option against it --------------------------------------------------------------------


def slow(method: VPT, x: Tensor) -> Tensor:
    """The pooled feature (batch, dim), with every concatenation written out; ViTs with a class token only."""
    config, net = method.config, method.backbone.module
    patches = net.patch_embed(x)
    hidden = torch.cat([net.cls_token.expand(len(x), -1, -1), patches], 1) + net.pos_embed
    prompts, kept = dict(method.prompts(len(x))), 0
    for layer, block in enumerate(net.blocks):
        if layer in prompts:
            prompt = prompts[layer].expand(len(x), -1, -1)
            if config.location == "prepend":
                hidden = torch.cat([hidden[:, :1], prompt, hidden[:, 1 + kept :]], 1)
                kept = prompt.shape[1]
            else:
                hidden = hidden + prompt
        hidden = block(hidden)
        if kept and config.after_depth == "drop" and config.mode == "deep" and layer == max(prompts):
            hidden, kept = torch.cat([hidden[:, :1], hidden[:, 1 + kept :]], 1), 0
    hidden = net.norm(hidden)
    read = {
        "default": hidden[:, :1] if net.global_pool == "token" else hidden[:, 1 + kept :],
        "class": hidden[:, :1],
        "token": hidden[:, 1 + kept :],
        "prompt": hidden[:, 1 : 1 + kept],
        "all_but_class": hidden[:, 1:],
        "all": hidden,
    }[config.pool]
    return net.fc_norm(read.mean(1))


VARIANTS: dict[str, dict[str, Any]] = {
    "deep": {},
    "shallow": {"mode": "shallow"},
    "one_prompt": {"prompt_length": 1},
    "more_prompts_than_patches": {"prompt_length": 40},
    "depth_1": {"depth": 1},
    "depth_2": {"depth": 2},
    "depth_2_dropped": {"depth": 2, "after_depth": "drop"},
    "reverse_2": {"depth": 2, "reverse_depth": True},
    "reverse_1": {"depth": 1, "reverse_depth": True},
    "shared": {"shared": True},
    "shared_depth_2": {"shared": True, "depth": 2},
    "add": {"location": "add"},
    "add_shallow": {"location": "add", "mode": "shallow"},
    "add_one": {"location": "add_one"},
    "add_one_reverse": {"location": "add_one", "depth": 2, "reverse_depth": True},
    "projection": {"projection": 6},
    "projection_shallow": {"projection": 6, "mode": "shallow"},
    "pool_class": {"pool": "class"},
    "pool_token": {"pool": "token"},
    "pool_prompt": {"pool": "prompt"},
    "pool_all_but_class": {"pool": "all_but_class"},
    "pool_all": {"pool": "all"},
    "pool_prompt_shallow": {"pool": "prompt", "mode": "shallow"},
    "pool_all_shallow": {"pool": "all", "mode": "shallow"},
    "pool_all_depth_2": {"pool": "all", "depth": 2},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["class", "mae"])
def test_equals_the_slow_reference(variant, name):
    method, x = double(VPT, name, **VARIANTS[variant]), DATA["val"].batch().inputs.double()
    method.eval()
    have = pooled(method, x)
    want = slow(method, x)
    close(have, want)
    leaves = list(method.sets.parameters())
    pulled = torch.randn(want.shape, generator=torch.Generator().manual_seed(0)).double()
    for left, right in zip(
        torch.autograd.grad((have * pulled).sum(), leaves),
        torch.autograd.grad((want * pulled).sum(), leaves),
        strict=True,
    ):
        close(left, right)


def pooled(method: VPT, x: Tensor) -> Tensor:
    pool, backbone = method.config.pool, method.backbone
    return backbone.pool(backbone(x, method.edits(len(x)), read=backbone.pool_segments(pool)), pool)


def test_equals_the_slow_reference_with_a_mask_per_image():
    method, x = double(VPT, prompt_dropout=0.5), DATA["val"].batch().inputs.double()
    method.train()
    results = []
    for run in (pooled, slow):
        torch.manual_seed(4)
        results.append(run(method, x))
    close(*results)
    assert (results[0] - pooled(method.eval(), x)).abs().max() > 1e-3


@pytest.mark.parametrize(("depth", "same"), [(1, True), (3, False)])
def test_shallow_is_deep_only_for_one_block(depth, same):
    net = adapt(randomise(VisionTransformer(**{**SIZE, "depth": depth}).double()), "tiny:blocks")
    first = torch.randn(1, 5, 32, dtype=torch.float64)
    results = []
    for mode in ("shallow", "deep"):
        method = VPT(VPTConfig(mode=mode), {"backbone": net}, task()).double().eval()
        tokens = method.sets[0].tokens.data
        tokens.normal_(generator=torch.Generator().manual_seed(3))
        tokens[:1] = first
        results.append(pooled(method, DATA["val"].batch().inputs.double()))
    assert torch.allclose(*results, rtol=1e-10, atol=1e-12) is same


# ---- 4, 5. what happens to prompt outputs, and to their order --------------------------------------------------------------


@pytest.mark.parametrize(("mode", "changes"), [("deep", False), ("shallow", True)])
def test_deep_throws_prompt_outputs_away_and_shallow_uses_them(mode, changes):
    method, x = double(VPT, mode=mode).eval(), DATA["val"].batch().inputs.double()
    noise = torch.randn(5, 32, dtype=torch.float64)

    def shake(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        return torch.cat([out[:, :1], out[:, 1:6] + noise, out[:, 6:]], 1)

    with reference_kernels():  # prompts have outputs in the concatenating path only
        before = pooled(method, x)
        handle = method.backbone.module.blocks[1].register_forward_hook(shake)
        after = pooled(method, x)
        handle.remove()
    assert ((after - before).abs().max().item() > 1e-6) is changes
    assert changes or torch.equal(after, before)


@pytest.mark.parametrize("mode", ["deep", "shallow"])
@pytest.mark.parametrize("name", ["class", "swin_shifted"])
def test_prompts_have_no_order(mode, name):
    method, x = double(VPT, name, mode=mode).eval(), DATA["val"].batch().inputs.double()
    before = pooled(method, x)
    with torch.no_grad():
        for tokens in method.sets:
            for row in tokens.tokens:
                row.copy_(row[torch.randperm(5, generator=torch.Generator().manual_seed(len(row)))])
    assert not torch.equal(tokens.tokens, double(VPT, name, mode=mode).sets[-1].tokens)
    close(pooled(method, x), before)


# ---- 6. the frozen network stays in evaluation mode ------------------------------------------------------------------------


def test_drop_path_and_dropout_of_the_network_stay_off():
    net = VisionTransformer(**SIZE, drop_path_rate=0.9, proj_drop_rate=0.5, attn_drop_rate=0.5, pos_drop_rate=0.5)
    method = VPT(VPTConfig(prompt_dropout=0.0), {"backbone": adapt(randomise(net), "tiny:drops")}, task())
    batch = DATA["val"].batch()
    with torch.no_grad():
        assert torch.equal(method.train()(batch), method.eval().train()(batch))
        torch.testing.assert_close(method.train()(batch), method.eval()(batch))


def test_prompts_of_every_stage_draw_masks_of_their_own():
    assert [tokens.name for tokens in make(VPT, "swin_shifted").sets] == ["prompt.0", "prompt.1"]


def test_prompt_dropout_defaults_to_a_tenth_for_deep_and_none_for_shallow():
    assert make(VPT).sets[0].dropout == 0.1
    assert make(VPT, mode="shallow").sets[0].dropout == 0.0
    assert make(VPT, mode="shallow", prompt_dropout=0.3).sets[0].dropout == 0.3


# ---- 7. initial values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "width"),
    [
        ("vit_base_patch16_224", {}, 768),
        ("vit_base_patch16_224", {"projection": 64}, 64),
        ("vit_base_patch16_224", {"mode": "shallow", "prompt_length": 200}, 768),
        ("swin_base_patch4_window7_224", {}, 128),
    ],
)
def test_initial_prompts_are_uniform_within_the_bound(name, options, width):
    torch.manual_seed(0)
    method = on_large(VPT, name, 10, **{"prompt_length": 50, **options})
    patch = 16 if "vit" in name else 4
    bound = (6 / (3 * patch * patch + width)) ** 0.5
    assert bound == 0.0625 or (name, width) != ("vit_base_patch16_224", 768)
    values = torch.cat([tokens.tokens.detach().flatten() for tokens in method.sets])
    assert values.abs().max() <= bound
    assert values.abs().max() > 0.99 * bound
    assert values.var().item() == pytest.approx(bound**2 / 3, rel=0.05)
    for tokens in method.sets:  # every stage has the first one's bound
        assert tokens.tokens.var().item() == pytest.approx(bound**2 / 3, rel=0.05)


def test_initial_head_and_projection():
    torch.manual_seed(0)
    method = on_large(VPT, "vit_base_patch16_224", 100, projection=64)
    assert torch.equal(method.head.bias, torch.full((100,), BIAS))
    assert pytest.approx(-4.59512, abs=1e-5) == BIAS
    assert method.head.weight.std().item() == pytest.approx((2 / 100) ** 0.5, rel=0.05)
    assert method.sets[0].projection.weight.std().item() == pytest.approx((2 / 768) ** 0.5, rel=0.05)


def test_class_means_start(tmp_path):
    one = steps(case(VPT, "class", 0, init="class_means"), steps=1, lr=1e-9)
    method = train(one, tmp_path / "run")
    batch = DATA["train"].batch()
    with torch.no_grad():
        features = method.backbone(batch.inputs).part("class")[:, 0]
    means = torch.stack([features[batch.target == label].mean(0) for label in range(3)])
    want = means[[0, 1, 2, 0, 1]].expand(3, 5, 32)
    torch.testing.assert_close(method.sets[0].tokens.detach(), want, rtol=1e-4, atol=1e-5)


# ---- 9. what is stored -----------------------------------------------------------------------------------------------------


def test_an_artifact_holds_prompts_and_head_only():
    method = on_large(VPT, "vit_small_patch16_224", 10, prompt_length=50)
    stored = method.export("predict")
    assert {name.split(".")[0] for name in stored} == {"sets", "head"}
    assert method.export("train") == {}
    size = sum(tensor.nbytes for tensor in stored.values())
    network = sum(tensor.numel() * 4 for tensor in large("vit_small_patch16_224").frozen_tensors())
    assert size < 0.02 * network
    assert size == 4 * (12 * 50 * 384 + 10 * 384 + 10)


# ---- the head --------------------------------------------------------------------------------------------------------------


def test_a_head_with_hidden_layers_couples_rows_and_says_so():
    assert make(VPT, head_layers=1).coupled
    assert not make(VPT).coupled
    method = seeded_make(VPT, head_layers=2)
    kinds = [type(module).__name__ for module in method.head]
    assert (
        kinds
        == ["Linear", "ReLU", "RowNorm", "Dropout", "Linear", "ReLU", "RowNorm", "Dropout", "Linear"][: len(kinds)]
    )
    assert head_values(method) == 2 * (32 * 32 + 32 + 64) + HEAD
    assert method.train()(DATA["val"].batch(0)).isfinite().all()  # the last batch of an epoch may hold one picture


def test_a_single_row_is_normalised_by_running_statistics():
    norm, plain = RowNorm(4), nn.BatchNorm1d(4)
    x = torch.randn(6, 4)
    torch.testing.assert_close(norm(x), plain(x))
    before = norm.running_mean.clone()
    torch.testing.assert_close(norm(x[:1]), plain.eval()(x[:1]))
    assert torch.equal(norm.running_mean, before)


def test_everything_decays_but_the_last_bias():
    method = make(VPT, head_layers=1, projection=4)
    decayed, bare = method.param_groups(next(iter(method.stages(None))))
    assert [p is method.head[-1].bias for p in bare["params"]] == [True]
    assert bare["weight_decay"] == 0.0
    assert len(decayed["params"]) + 1 == len(list(method.parameters()))
    assert "weight_decay" not in decayed


# ---- the official schedule -------------------------------------------------------------------------------------------------


def test_official_warm_up_trains_the_first_epoch_with_rate_zero(tmp_path):
    options = TrainOptions(epochs=100, warmup_epochs=10, official_warmup=True)
    factors = [lr_factor(step, 700, 7, options) for step in range(700)]
    assert factors[:7] == [0.0] * 7
    assert factors[7:14] == [0.1] * 7
    assert factors[70:77] == [1.0] * 7
    assert factors[77] < 1
    assert len(set(factors[7 * 40 : 7 * 41])) == 1  # per epoch, not per step
    assert 0 < factors[-1] < 1e-2
    one = steps(CASES["deep"], official_warmup=True, warmup_epochs=2, weight_decay=0.1, select=False)
    start = seeded_make(VPT)
    for count, moved in ((3, False), (4, True)):  # 21 pictures in batches of 8: an epoch has 3 steps
        method = train(steps(one, steps=count), tmp_path / str(count))
        assert torch.equal(method.sets[0].tokens, start.sets[0].tokens) is not moved


# ---- several prompts in one batch ------------------------------------------------------------------------------------------


def tenants(name: str, **options: Any) -> list[VPT]:
    backbone = tiny(name)
    methods = []
    for seed in range(3):
        method = seeded_make(VPT, name, seed, **options).eval()
        with torch.no_grad():
            for tensor in method.parameters():
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed)))
        method.backbones = {"backbone": backbone}
        methods.append(method)
    return methods


@pytest.mark.parametrize("name", ["class", "registers", "eva_rope", "swin_shifted"])
@pytest.mark.parametrize("options", [{}, SHALLOW, {"depth": 2}, {"shared": True}, {"projection": 6}, {"pool": "all"}])
@pytest.mark.parametrize("reference", [False, True])
def test_a_mixed_batch_equals_one_by_one(name, options, reference):
    methods, batch = tenants(name, **options), DATA["val"].batch()
    index = torch.tensor([0, 2, 1, 1, 0, 2, 2, 0, 1])
    run = VPT.mixed(methods)
    with torch.no_grad(), reference_kernels() if reference else nullcontext():
        mixed = torch.cat([row["logits"] for row in run(batch, index)])
        alone = torch.cat([methods[t](DATA["val"].batch(n)) for n, t in enumerate(index.tolist())])
        others = torch.cat([methods[(t + 1) % 3](DATA["val"].batch(n)) for n, t in enumerate(index.tolist())])
    torch.testing.assert_close(mixed, alone, rtol=1e-4, atol=1e-4)
    assert (others - alone).abs().max() > 1e-2


def test_prompts_that_cannot_share_a_forward_are_left_to_the_caller():
    assert VPT.mixed([make(VPT, prompt_length=5), make(VPT, prompt_length=6)]) is None
    assert VPT.mixed([make(VPT, location="add"), make(VPT, location="add")]) is None
    assert VPT.mixed([make(VPT, prompt_length=0), make(VPT, prompt_length=0)]) is None


# ---- prompt keys and values kept at inference ------------------------------------------------------------------------------


def test_kept_keys_and_values_are_computed_once_and_follow_every_change(monkeypatch):
    method, batch = seeded_make(VPT).eval(), DATA["val"].batch()
    backbone, calls = method.backbone, []
    lower = backbone.lower
    monkeypatch.setattr(backbone, "lower", lambda edits: calls.append(1) or lower(edits))

    def predict() -> Tensor:
        with torch.no_grad():
            return method(batch)

    def fresh() -> Tensor:
        return method(batch).detach()  # with gradients enabled nothing is kept

    first = predict()
    assert torch.equal(predict(), first)
    assert len(calls) == 1
    torch.testing.assert_close(first, fresh())
    with torch.no_grad():
        method.sets[0].tokens[1, 2] += 1.0
    assert not torch.equal(predict(), first)
    torch.testing.assert_close(predict(), fresh())
    assert len(calls) == 2
    method.sets[0].tokens = nn.Parameter(torch.randn(3, 5, 32))
    torch.testing.assert_close(predict(), fresh())
    optimiser = torch.optim.SGD(method.parameters(), lr=0.5)
    method(batch).sum().backward()
    optimiser.step()
    torch.testing.assert_close(predict(), fresh())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = predict()
    assert not torch.equal(rounded, predict())
    torch.testing.assert_close(predict(), fresh())  # nothing rounded is left over
    method.restore("predict", seeded_make(VPT, seed=7).export("predict"))
    torch.testing.assert_close(predict(), fresh())


# ---- other networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["registers", "dinov2", "no_class", "mae", "siglip", "clip", "distilled", "eva_rope", "dinov3", "swin_odd"]
)
@pytest.mark.parametrize("mode", ["deep", "shallow"])
def test_every_kind_of_network_gives_every_prompt_gradient(name, mode):
    method = seeded_make(VPT, name, mode=mode, prompt_dropout=0.0).train()
    batch = pictures_for(method.backbone)
    method.training_step(batch).loss.backward()
    for tokens in method.sets:
        gradient = tokens.tokens.grad
        assert gradient.isfinite().all()
        assert (gradient.abs().amax((1, 2)) > 0).all()


def pictures_for(backbone: VisionBackbone) -> Batch:
    batch = DATA["val"].batch()
    rows, columns = backbone.image_size
    return replace(batch, inputs=batch.inputs[:, :, :rows, :columns])


@pytest.mark.parametrize("mode", ["deep", "shallow"])
def test_a_half_precision_network_leaves_prompts_in_float32(mode):
    method, want = seeded_make(VPT, mode=mode), seeded_make(VPT, mode=mode)
    method.backbone.to("cpu", torch.bfloat16)
    batch = DATA["val"].batch()
    method.training_step(batch).loss.backward()
    assert method.sets[0].tokens.dtype == method.sets[0].tokens.grad.dtype == torch.float32
    with torch.no_grad():
        assert (method.eval()(batch) - want.eval()(batch)).abs().max() < 0.1


def test_a_network_without_tokens_is_refused_by_name_with_what_works_there():
    import timm

    backbone = adapt(timm.create_model("test_resnet", num_classes=0), "timm:test_resnet")
    with pytest.raises(ConfigError, match="is a ResNet, which has no token sequence.*vpt_pixel --location pad"):
        VPT(VPTConfig(), {"backbone": backbone}, task())


def test_errors_are_of_the_kinds_a_user_meets():
    with pytest.raises(ArtifactError):
        restore_other_shape()
    with pytest.raises(DataError):
        Classification(["only"])
    with pytest.raises(ConfigError, match="mode='deeper'.*; prompt_length=-1"):
        build_all({"config": VPTConfig}, {"prompt_length": -1, "mode": "deeper"})
