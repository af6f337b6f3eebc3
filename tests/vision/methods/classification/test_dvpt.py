"""DVPT: the acceptance checks of its card, each variant against a loop written from its equations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pt_core import Insert, Layout
from pt_core.run.declare.options import build_all
from pt_core.testing import BadInput
from pt_vision.bottleneck import group_blocks, quick_gelu
from pt_vision.methods.classification.dvpt import DVPT, DVPTConfig
from pt_vision.methods.classification.linear import LinearProbe
from torch import Tensor

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
)
from tests.vision.nets import close

SWIN = "swin_shifted"  # widths 16, 16, 32, 32
HEAD = 3 * 32


def bottleneck(dim: int, latent: int) -> int:
    return 2 * dim * latent + latent + dim + 1


def refuse(**options: Any) -> Any:
    return lambda: build_all({"config": DVPTConfig}, options)


BAD = (
    BadInput("no latent", refuse(latent=0), "latent=0"),
    BadInput("no group", refuse(group=0), "group=0"),
    BadInput("half a group", refuse(group=1.5), "group=1.5"),
    BadInput("negative length", refuse(prompt_length=-1), "prompt_length=-1"),
    BadInput("unknown variant", refuse(variant="code_mit"), "variant='code_mit'"),
    BadInput("misspelt", refuse(latnet=3), "did you mean 'latent'"),
    BadInput("paper on Swin", lambda: make(DVPT, SWIN), "variant='paper' is undefined on 'tiny:swin_shifted'.*code_swin"),
    BadInput("code_vit on Swin", lambda: make(DVPT, SWIN, variant="code_vit"), "variant='code_vit'.*code_swin"),
    BadInput(
        "more prompts than tokens",
        lambda: make(DVPT, SWIN, variant="code_swin", prompt_length=65),
        "prompt_length=65 exceeds the 64 tokens of block 2",
    ),
    BadInput(
        "another length",
        lambda: make(DVPT, prompt_length=4).restore("predict", make(DVPT, prompt_length=6).export("predict")),
        r"\(6, 32\).*\(4, 32\)",
    ),
)  # fmt: skip
SMALL = {"prompt_length": 4, "latent": 6, "group": 2}
CASES = {
    "paper": replace(case(DVPT, "class", 2 * 4 * 32 + 2 * bottleneck(32, 6) + HEAD, **SMALL), bad_inputs=BAD),
    "code_vit": case(DVPT, "registers", 2 * 4 * 32 + 2 * bottleneck(32, 6) + HEAD, variant="code_vit", **SMALL),
    "code_swin": case(DVPT, SWIN, 4 * 96 + bottleneck(16, 6) + bottleneck(32, 6) + HEAD, variant="code_swin", **SMALL),
    "code_swin_on_vit": case(DVPT, "class", 4 * 96 + 2 * bottleneck(32, 6) + HEAD, variant="code_swin", **SMALL),
}


@pytest.mark.parametrize(("one", "check"), conformance(CASES))
def test_conformance(one, check, tmp_path):
    check(one, tmp_path)


# ---- 1. counts -------------------------------------------------------------------------------------------------------------


def test_count_of_the_paper_variant_on_vit_b():
    method = on_large(DVPT, "vit_base_patch16_224", 5)
    assert method.length == 50
    assert head_values(method) == 5 * 768
    assert sum(p.numel() for p in method.bottlenecks.parameters()) == 4 * 31_509
    # The published sum has CLIP's projection to 512 in front of the head.
    assert method.parameter_count() - head_values(method) + 5 * 512 == 205_396
    network = sum(tensor.numel() for tensor in large("vit_base_patch16_224").frozen_tensors())
    assert 0.0023 < 205_396 / network < 0.0025


def test_count_of_the_swin_variant_on_swin_b():
    method = on_large(DVPT, "swin_base_patch4_window7_224", 5, variant="code_swin")
    assert sum(p.numel() for p in method.block_prompts) == 120_320
    assert sum(p.numel() for p in method.bottlenecks.parameters()) == 94_179
    assert head_values(method) == 5_120
    assert method.parameter_count() == 219_619


# ---- 2, 3. the gate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["paper", "code_vit"])
def test_starts_as_prompts_in_the_frozen_network(variant):
    method, x = seeded_make(DVPT, variant=variant, **SMALL), DATA["val"].batch().inputs
    tokens = Insert(method.prompt + method.prompt_position, at="front", keep_output=True)
    want = method.backbone(x, {"tokens[0]": tokens}).tokens
    torch.testing.assert_close(method.backbone(x, method.edits()).tokens, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["class", "no_class", "mae"])
@pytest.mark.parametrize("variant", ["paper", "code_vit"])
def test_without_prompts_and_with_closed_gates_it_is_the_frozen_network(name, variant):
    method, probe = seeded_make(DVPT, name, variant=variant, prompt_length=0), seeded_make(LinearProbe, name)
    batch = DATA["val"].batch()
    want = probe.frozen_part(batch) @ method.head.weight.T
    if name == "mae":  # its head reads the class token, which the network's own head does not
        want = method.backbone(batch.inputs).part("class")[:, 0] @ method.head.weight.T
    torch.testing.assert_close(method(batch), want, rtol=1e-5, atol=1e-6)


def test_the_swin_variant_does_not_start_as_the_frozen_network():
    method, batch = seeded_make(DVPT, SWIN, variant="code_swin", **SMALL), DATA["val"].batch()
    frozen = seeded_make(LinearProbe, SWIN).frozen_part(batch) @ method.head.weight.T
    assert (method(batch) - frozen).abs().max() > 1e-4


@pytest.mark.parametrize("variant", ["paper", "code_vit", "code_swin"])
def test_the_first_gradient_opens_the_gate_only(variant):
    method, batch = seeded_make(DVPT, variant=variant, **SMALL), DATA["val"].batch()
    optimiser = torch.optim.SGD(method.parameters(), lr=0.1)
    method.training_step(batch).loss.backward()
    for module in method.bottlenecks:
        assert module.gate.item() == 0
        assert module.gate.grad.abs() > 0
        assert not any(p.grad.any() for p in (*module.down.parameters(), *module.up.parameters()))
    optimiser.step()
    optimiser.zero_grad()
    method.training_step(batch).loss.backward()
    for module in method.bottlenecks:
        assert all(p.grad.any() for p in module.parameters())


# ---- 4, 5, 8. the dynamic branch -------------------------------------------------------------------------------------------

LAYOUT = Layout((("prompt", 4), ("class", 1), ("token", 16)), (4, 4))


def branch_loop(method: DVPT, layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """(o, y) of one image (tokens, dim), from the equations, one prompt and one key at a time."""
    module = method.bottlenecks[method.group_of[layer]]
    before = method.config.activation == "before"
    rows = []
    for token in x:
        if before:
            rows.append(module.down.weight @ quick_gelu(token) + module.down.bias)
        else:
            rows.append(quick_gelu(module.down.weight @ token + module.down.bias))
    prompts, keys = rows[:4], rows[5:]
    scale = len(x[0]) ** -0.5 if method.config.scale == "width" else len(rows[0]) ** -0.5
    o = []
    for q in prompts:
        weights = torch.stack([(q * k).sum() * scale for k in keys]).exp()
        weights = weights / weights.sum()
        assert weights.sum().item() == pytest.approx(1.0, abs=1e-12)
        o.append(torch.stack([w * k for w, k in zip(weights, keys, strict=True)]).sum(0))
    y = [module.gate * (module.up.weight @ u + module.up.bias) for u in [*o, *rows[4:]]]
    return torch.stack(o), torch.stack(y)


@pytest.mark.parametrize("activation", ["between", "before"])
@pytest.mark.parametrize("scale", ["width", "latent"])
def test_the_branch_equals_its_loop(activation, scale):
    method = double(DVPT, activation=activation, scale=scale, **SMALL)
    x = torch.randn(3, 21, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for layer in range(3):
        want = torch.stack([branch_loop(method, layer, image)[1] for image in x])
        close(method.dynamic(layer, x, LAYOUT), want)


def test_prompts_depend_on_the_sample_in_the_paper_variant_only():
    rng = torch.Generator().manual_seed(2)
    x = torch.randn(2, 21, 32, dtype=torch.float64, generator=rng)
    x[1, :4] = x[0, :4]  # equal prompt rows, different pictures
    for variant, differs in (("paper", True), ("code_vit", False)):
        y = double(DVPT, variant=variant, **SMALL).dynamic(0, x, LAYOUT)[:, :4]
        assert ((y[0] - y[1]).abs().max().item() > 1e-3) is differs


def test_the_class_token_is_not_attended_to_and_patches_have_no_order():
    method = double(DVPT, **SMALL)
    x = torch.randn(1, 21, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    want = method.dynamic(0, x, LAYOUT)
    other = x.clone()
    other[:, 4] += torch.randn(32, dtype=torch.float64)
    have = method.dynamic(0, other, LAYOUT)
    assert torch.equal(have[:, :4], want[:, :4])
    assert not torch.equal(have[:, 4], want[:, 4])
    order = torch.randperm(16, generator=torch.Generator().manual_seed(4)) + 5
    shuffled = method.dynamic(0, torch.cat([x[:, :5], x[:, order]], 1), LAYOUT)
    close(shuffled[:, :4], want[:, :4])
    close(shuffled[:, 5:], want[:, order])


# ---- the whole network against a loop --------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["paper", "code_vit"])
@pytest.mark.parametrize("name", ["class", "clip"])
def test_the_vit_variants_equal_a_loop(variant, name):
    method, x = double(DVPT, name, variant=variant, **SMALL), DATA["val"].batch(0, 1, 2).inputs.double()
    net = method.backbone.module
    hidden = torch.cat([net.cls_token.expand(3, -1, -1), net.patch_embed(x)], 1) + net.pos_embed
    # Prompts come first, and pass the norm that CLIP has before its blocks.
    prompts = (method.prompt + method.prompt_position).expand(3, -1, -1)
    hidden = net.norm_pre(torch.cat([prompts, hidden], 1))
    for layer, block in enumerate(net.blocks):
        hidden = hidden + block.attn(block.norm1(hidden))
        if variant == "paper":
            y = torch.stack([branch_loop(method, layer, image)[1] for image in hidden])
        else:
            module = method.bottlenecks[method.group_of[layer]]
            y = module.gate * module.up(quick_gelu(module.down(hidden)))
        hidden = hidden + block.mlp(block.norm2(hidden)) + y
    want = net.norm(hidden)
    have = method.backbone(x, method.edits())
    assert [kind for kind, _ in have.layout.segments] == ["prompt", "class", "token"]
    close(have.tokens, want)
    logits = want[:, :5].mean(1) @ method.head.weight.T
    torch.testing.assert_close(
        method.float()(DATA["val"].batch(0, 1, 2)).double(), logits.double(), rtol=1e-4, atol=1e-4
    )


def test_the_swin_variant_equals_a_loop():
    method, x = double(DVPT, SWIN, variant="code_swin", **SMALL), DATA["val"].batch(0, 1, 2).inputs.double()
    net, layer = method.backbone.module, 0
    hidden = net.patch_embed(x)
    for stage in net.layers:
        hidden = stage.downsample(hidden)
        for block in stage.blocks:
            shape = hidden.shape
            attended = block._attn(block.norm1(hidden)).flatten(1, 2)
            prompt = method.block_prompts[layer]
            for image in range(len(x)):
                weights = (prompt @ attended[image].T * shape[-1] ** -0.5).softmax(-1)
                o = weights @ attended[image]
                attended = attended.index_put(
                    (torch.tensor([image] * 4), torch.arange(4)), attended[image, :4] + o
                )  # the top-left tokens
            hidden = hidden.flatten(1, 2) + attended
            module = method.bottlenecks[method.group_of[layer]]
            y = module.gate * module.up(quick_gelu(module.down(hidden)))
            hidden = (hidden + block.mlp(block.norm2(hidden)) + y).view(shape)
            layer += 1
    close(method.backbone(x, method.edits()).tokens, net.norm(hidden).flatten(1, 2))


# ---- 6. sharing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dims", "size", "groups"),
    [
        ((8,) * 5, 2, [0, 0, 1, 1, 2]),
        ((8,) * 3, 1, [0, 1, 2]),
        ((8,) * 3, 5, [0, 0, 0]),
        ((8, 8, 16, 16, 16, 16, 32), 3, [0, 0, 1, 1, 1, 2, 3]),
        ((8, 8, 8, 16), 3, [0, 0, 0, 1]),
    ],
)
def test_groups_of_blocks(dims, size, groups):
    assert group_blocks(dims, size) == groups


@pytest.mark.parametrize(("group", "modules"), [(1, 3), (2, 2), (3, 1)])
def test_blocks_of_a_group_share_one_object(group, modules):
    method = make(DVPT, group=group)
    found = [method.bottleneck(layer) for layer in range(3)]
    assert len({id(module) for module in found}) == len(method.bottlenecks) == modules
    assert all((found[a] is found[b]) == (a // group == b // group) for a in range(3) for b in range(3))


def test_the_gradient_of_a_shared_bottleneck_is_the_sum_over_its_blocks():
    options = {**SMALL, "group": 3}
    shared, apart = double(DVPT, **options), double(DVPT, **{**options, "group": 1})
    own = dict(shared.named_parameters())
    with torch.no_grad():
        for name, tensor in apart.named_parameters():
            rest = name.partition("bottlenecks.")[2]
            tensor.copy_(own[f"bottlenecks.0.{rest.split('.', 1)[1]}"] if rest else own[name])
    x = DATA["val"].batch().inputs.double()
    for method in (shared, apart):
        method.backbone(x, method.edits()).tokens.square().sum().backward()
    for part in ("down", "up"):
        parts = [getattr(module, part).weight.grad for module in apart.bottlenecks]
        close(getattr(shared.bottlenecks[0], part).weight.grad, sum(parts))
        assert all(gradient.abs().max() > 0 for gradient in parts)


# ---- 9. degenerate cases, the head, precision -------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", [1, 7])
def test_without_up_projection_it_is_vpt_shallow_with_a_mean_head(latent):
    method, batch = seeded_make(DVPT, prompt_length=4, latent=latent), DATA["val"].batch()
    with torch.no_grad():
        for module in method.bottlenecks:
            module.gate.fill_(3.0)
            module.up.weight.zero_()
            module.up.bias.zero_()
    tokens = Insert(method.prompt + method.prompt_position, at="front", keep_output=True)
    read = method.backbone(batch.inputs, {"tokens[0]": tokens}, read=["prompt", "class"]).tokens
    torch.testing.assert_close(method(batch), method.head(read.mean(1)), rtol=1e-5, atol=1e-6)


def test_without_a_class_token_the_head_reads_the_prompts():
    method, batch = seeded_make(DVPT, "no_class", **SMALL), DATA["val"].batch()
    features = method.backbone(batch.inputs, method.edits())
    torch.testing.assert_close(method(batch), method.head(features.part("prompt").mean(1)))


def test_the_head_has_no_bias_and_swin_pools_as_its_own_head_does():
    method, batch = seeded_make(DVPT, SWIN, variant="code_swin", **SMALL), DATA["val"].batch()
    assert method.head.bias is None
    tokens = method.backbone(batch.inputs, method.edits()).tokens
    torch.testing.assert_close(method(batch), method.head(tokens.mean(1)))


def test_initial_values():
    torch.manual_seed(0)
    method = on_large(DVPT, "vit_base_patch16_224", 5, prompt_length=100)
    assert method.prompt.std().item() == pytest.approx(1, rel=0.03)
    assert method.prompt_position.std().item() == pytest.approx(768**-0.5, rel=0.03)
    assert [module.gate.item() for module in method.bottlenecks] == [0.0] * 4
    assert method.bottlenecks[0].down.weight.abs().max() <= 768**-0.5
    swin = on_large(DVPT, "swin_base_patch4_window7_224", 5, variant="code_swin")
    values = torch.cat([p.detach().flatten() for p in swin.block_prompts])
    assert values.abs().max() <= 0.04
    assert 0.016 < values.std() < 0.0205  # N(0, 0.02), cut at two deviations


def test_defaults_differ_between_the_variants():
    assert (make(DVPT).length, make(DVPT).bottlenecks[0].down.out_features) == (50, 20)
    swin = make(DVPT, SWIN, variant="code_swin")
    assert (swin.length, swin.bottlenecks[0].down.out_features) == (10, 10)


@pytest.mark.parametrize(("name", "variant"), [("class", "paper"), ("registers", "code_vit"), (SWIN, "code_swin")])
def test_a_half_precision_network_leaves_own_tensors_in_float32(name, variant):
    method, batch = seeded_make(DVPT, name, variant=variant, **SMALL), DATA["val"].batch()
    method.backbone.to("cpu", torch.bfloat16)
    for _ in range(2):
        method.training_step(batch).loss.backward()
        with torch.no_grad():
            for p in method.parameters():
                assert p.grad.dtype == torch.float32
                p -= 0.1 * p.grad
    assert method(batch).isfinite().all()
