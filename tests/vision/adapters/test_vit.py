"""ViT and Eva adapters: equal to timm without edits, and with edits equal to an explicit loop over the upstream blocks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from pt_core.backbone import Add, Edit, Insert, KeyValue, Replace
from pt_core.errors import UserError
from pt_core.fingerprint import fingerprint_tensors
from pt_core.kernels import flop_counter, reference_kernels
from pt_vision.adapters import adapt
from pt_vision.adapters.base import VisionBackbone
from torch import Tensor, nn

from tests.vision.nets import OTHER, PLAIN, close, images, network, prompts, pull, randomise

BOTH = [*PLAIN, *OTHER]
ROPE = ["eva_rope", "eva_mixed", "dinov3"]


def embed(backbone: VisionBackbone, x: Tensor) -> tuple[Tensor, Any]:
    """timm's own steps before the blocks, and the rotary table of Eva."""
    module: Any = backbone.module
    x = module._pos_embed(module.patch_embed(x))
    x, rope = x if isinstance(x, tuple) else (x, None)
    return module.norm_pre(x), rope


@contextmanager
def longer_prefix(block: Any, added: int) -> Iterator[None]:
    """Rotary attention that leaves `added` more leading tokens unrotated."""
    before = block.attn.num_prefix_tokens
    block.attn.num_prefix_tokens = before + added
    yield
    block.attn.num_prefix_tokens = before


def run_block(backbone: VisionBackbone, layer: int, x: Tensor, rope: Any, added: int) -> Tensor:
    block: Any = backbone.module.blocks[layer]
    if rope is None:
        return block(x)
    with longer_prefix(block, added):
        return block(x, rope=rope[layer] if backbone.module.rope_mixed else rope)


def deep_loop(backbone: VisionBackbone, x: Tensor, tokens: list[Tensor]) -> Tensor:
    """VPT-deep as published: insert behind the prefix, run the block, throw the prompts' outputs away."""
    x, rope = embed(backbone, x)
    prefix = backbone.num_prefix
    for layer, prompt in enumerate(tokens):
        rows = prompt.expand(len(x), *prompt.shape[-2:])
        count = rows.shape[1]
        out = run_block(backbone, layer, torch.cat([x[:, :prefix], rows, x[:, prefix:]], 1), rope, count)
        x = torch.cat([out[:, :prefix], out[:, prefix + count :]], 1)
    return backbone.module.norm(x)


def kept_loop(backbone: VisionBackbone, x: Tensor, prompt: Tensor, at: str, first: int) -> Tensor:
    """VPT-shallow as published, started at block `first`."""
    x, rope = embed(backbone, x)
    for layer in range(backbone.depth):
        if layer == first:
            place = 0 if at == "front" else backbone.num_prefix
            x = torch.cat([x[:, :place], prompt.expand(len(x), *prompt.shape[-2:]), x[:, place:]], 1)
        x = run_block(backbone, layer, x, rope, len(prompt) if layer >= first else 0)
    return backbone.module.norm(x)


def deep(tokens: list[Tensor], **options: Any) -> dict[str, Edit]:
    return {f"tokens[{layer}]": Insert(prompt, **options) for layer, prompt in enumerate(tokens)}


@pytest.mark.parametrize("name", BOTH)
def test_without_edits_it_is_timm(name: str) -> None:
    backbone = network(name)
    x = images(backbone)
    features = backbone(x)
    want = backbone.module.forward_features(x)
    torch.testing.assert_close(features.tokens, want, rtol=0, atol=0)
    assert len(features.layout) == want.shape[1]
    assert features.layout.grid == backbone.grid == (4, 4)
    assert features.layout.count("token") == 16
    assert backbone.token_count(0) == want.shape[1]


@pytest.mark.parametrize("name", [name for name in BOTH if name != "unpooled"])
def test_default_pooling_is_what_the_head_of_timm_reads(name: str) -> None:
    backbone = network(name)
    x = images(backbone)
    want = backbone.module.forward_head(backbone.module.forward_features(x), pre_logits=True)
    close(backbone.pool(backbone(x)), want, 1e-12)
    close(backbone.pool(backbone(x, read=backbone.pool_segments())), want, 1e-12)
    assert want.shape[1] == backbone.feature_dim


@pytest.mark.parametrize("name", BOTH)
def test_default_pooling_leaves_kept_prompts_out(name: str) -> None:
    backbone = network(name)
    x, prompt = images(backbone), prompts(backbone)[0]
    features = backbone(x, {"tokens[1]": Insert(prompt, at="front", keep_output=True)})
    without = torch.cat([features.part(kind) for kind in ("class", "register", "token")], 1)
    want = backbone.module.forward_head(without, pre_logits=True)
    want = want if want.ndim == 2 else want[:, 0]
    close(backbone.pool(features), want, 1e-12)


@pytest.mark.parametrize("name", BOTH)
def test_deep_prompts_fast_reference_and_loop_agree(name: str) -> None:
    backbone = network(name)
    x, tokens = images(backbone), prompts(backbone)
    want = deep_loop(backbone, x, tokens)
    want_gradients = pull(want, tokens)
    fast = backbone(x, deep(tokens)).tokens
    with reference_kernels():
        slow = backbone(x, deep(tokens)).tokens
    for have in (fast, slow):
        close(have, want)
        for have_gradient, gradient in zip(pull(have, tokens), want_gradients, strict=True):
            close(have_gradient, gradient)


# The loop knows rotary positions for prompts behind the prefix only; the test after this one covers the front.
@pytest.mark.parametrize(
    ("name", "at"), [(n, a) for n in BOTH for a in ("after_prefix", "front") if a != "front" or n not in ROPE]
)
@pytest.mark.parametrize("first", [0, 1])
def test_kept_prompts_equal_the_loop(name: str, at: Any, first: int) -> None:
    backbone = network(name)
    x, prompt = images(backbone), prompts(backbone)[0]
    features = backbone(x, {f"tokens[{first}]": Insert(prompt, at=at, keep_output=True)})
    want = kept_loop(backbone, x, prompt, at, first)
    close(features.tokens, want)
    close(pull(features.tokens, [prompt])[0], pull(want, [prompt])[0])
    place = 0 if at == "front" else backbone.num_prefix
    assert features.layout.slice("prompt") == slice(place, place + 5)
    close(features.part("prompt"), want[:, place : place + 5])


@pytest.mark.parametrize("name", BOTH)
def test_prompts_have_no_position(name: str) -> None:
    """Where prompts stand and their order change nothing for the other tokens."""
    backbone = network(name)
    x, tokens = images(backbone), prompts(backbone)
    want = backbone(x, deep(tokens)).tokens
    order = [4, 2, 0, 1, 3]
    with reference_kernels():
        close(backbone(x, deep([t[order] for t in tokens], at="front")).tokens, want)
    close(backbone(x, deep([t[order] for t in tokens])).tokens, want)
    kept = backbone(x, {"tokens[0]": Insert(tokens[0], keep_output=True)}).part("token")
    close(backbone(x, {"tokens[0]": Insert(tokens[0], at="front", keep_output=True)}).part("token"), kept)


@pytest.mark.parametrize("name", ["class", "dinov2", "qk_norm", "dinov3", "parallel_scaling"])
def test_shared_per_row_and_bank_prompts_agree(name: str) -> None:
    backbone = network(name)
    x, bank = images(backbone), prompts(backbone, rows=4)
    index = torch.tensor([2, 0, 2])
    with_bank = backbone(x, deep(bank, index=index)).tokens
    per_row = backbone(x, deep([b[index] for b in bank])).tokens
    close(with_bank, per_row)
    for have, want in zip(pull(with_bank, bank), pull(per_row, bank), strict=True):
        close(have, want)
        assert not have[[1, 3]].any(), "a tenant nobody asked for gets no gradient"
    for row, tenant in enumerate(index):
        shared = backbone(x[row : row + 1], deep([b[tenant] for b in bank])).tokens
        close(with_bank[row : row + 1], shared)
    close(backbone(x, deep([b[:1] for b in bank])).tokens, backbone(x, deep([b[0] for b in bank])).tokens, 1e-14)
    kept = {"tokens[0]": Insert(bank[0], keep_output=True, index=index)}
    close(backbone(x, kept).tokens[1], backbone(x[1:2], {"tokens[0]": Insert(bank[0][0], keep_output=True)}).tokens[0])


@pytest.mark.parametrize("name", ["class", "siglip", "dinov3"])
def test_a_row_does_not_depend_on_its_neighbours(name: str) -> None:
    backbone = network(name)
    x, tokens = images(backbone), prompts(backbone, rows=3)
    for options in ({}, {"keep_output": True}):
        edits = deep(tokens, **options) if not options else deep(tokens[:1], **options)
        whole = backbone(x, edits).tokens
        for row in range(3):
            alone = {site: Insert(edit.tokens[row : row + 1], **options) for site, edit in edits.items()}  # type: ignore[union-attr,index]
            close(backbone(x[row : row + 1], alone).tokens[0], whole[row])


@pytest.mark.parametrize("name", [*PLAIN, "differential", "dinov3"])
def test_lowered_edits_give_the_same(name: str) -> None:
    backbone = network(name)
    x, bank = images(backbone), prompts(backbone, rows=4)
    index = torch.tensor([3, 3, 0])
    edits: dict[str, Any] = deep(bank, index=index)
    edits["tokens[1]"] = [
        edits["tokens[1]"],
        Insert(lambda hidden, layout: hidden[:, :2] * 0.5),
        Add(lambda h, _: h * 0.1),
    ]
    lowered = backbone.lower(edits)
    if "kv[l]" in backbone.sites:
        assert sorted(lowered) == ["kv[0]", "kv[1]", "kv[2]", "tokens[1]"]
        assert lowered["kv[0]"][0].k.shape == (4, 4, 5, 8)  # type: ignore[index,union-attr]
        assert not lowered["kv[0]"][0].k.requires_grad  # type: ignore[index,union-attr]
    close(backbone(x, lowered).tokens, backbone(x, edits).tokens)
    assert len(edits["tokens[1]"]) == 3, "the caller's edits stay as they were"
    with reference_kernels():
        close(backbone(x, lowered).tokens, backbone(x, edits).tokens)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("how", ["default", "class", "token", "prompt", "all_but_class", "all"])
def test_reading_less_changes_nothing_that_is_read(name: str, how: str) -> None:
    backbone = network(name)
    how = "token" if how == "class" and not backbone.has_class else how
    x, tokens = images(backbone), prompts(backbone)
    edits = deep(tokens[:2]) | {"tokens[2]": [Insert(tokens[2]), Insert(tokens[1], keep_output=True)]}
    read = backbone.pool_segments(how)
    whole, part = backbone(x, edits), backbone(x, edits, read=read)
    for kind, _ in part.layout.segments:
        close(part.part(kind), whole.part(kind))
    assert read is None or {kind for kind, _ in part.layout.segments} <= set(read)
    assert part.tokens.shape[1] == len(part.layout)
    close(backbone.pool(part, how), backbone.pool(whole, how))
    for have, want in zip(pull(part.tokens, tokens), pull(whole.tokens[:, _where(whole, part)], tokens), strict=True):
        close(have, want)


def _where(whole: Any, part: Any) -> list[int]:
    kinds = [kind for kind, _ in part.layout.segments]
    return [place for kind in kinds for place in range(len(whole.layout))[whole.layout.slice(kind)]]


def test_pooling_means() -> None:
    backbone = network("pool_prefix")
    features = backbone(images(backbone), {"tokens[1]": Insert(prompts(backbone)[0], keep_output=True)})
    norm, x = backbone.module.fc_norm, features.tokens
    close(backbone.pool(features, "class"), norm(x[:, 0]))
    close(backbone.pool(features, "prompt"), norm(x[:, 3:8].mean(1)))
    close(backbone.pool(features, "token"), norm(x[:, 8:].mean(1)))
    close(backbone.pool(features, "all_but_class"), norm(x[:, 1:].mean(1)))
    close(backbone.pool(features, "all"), norm(x.mean(1)))


def test_the_last_block_computes_only_what_is_read() -> None:
    backbone = network("class")
    x = images(backbone)

    def cost(**options: Any) -> int:
        with flop_counter() as count:
            backbone(x, **options)
        return count.get_total_flops()

    whole, block = cost(), 3 * (24 * 17 * 32**2 + 4 * 17**2 * 32)
    assert whole - cost(read=("class",)) == 3 * (20 * 16 * 32**2 + 4 * 16 * 17 * 32) < block
    edits: dict[str, Edit] = {"features": Add(lambda h, _: h.mean(1, keepdim=True).expand_as(h))}
    close(backbone(x, edits, read=("class",)).tokens, backbone(x, edits).tokens[:, :1])
    assert cost(read=("class",), edits=edits) == whole, "an edit behind the last block sees all tokens"


@pytest.mark.parametrize("name", ["class", "registers", "clip", "qk_norm", "siglip", "mae"])
def test_value_sites(name: str) -> None:
    backbone, seen = network(name), []
    module: Any = backbone.module
    x, rng = images(backbone), torch.Generator().manual_seed(5)
    shift = [torch.randn(1, 1, 32, generator=rng).double() for _ in range(3)]
    bias = torch.randn(3, 1, 1, generator=rng).double()
    edits: dict[str, Any] = {
        "pixels": [Add(lambda h, layout: bias), Replace(lambda h, layout: h * 2)],
        "input": Add(lambda h, layout: seen.append(layout) or shift[0].expand_as(h)),
        "tokens[1]": Add(lambda h, layout: seen.append(layout) or shift[1]),
        "features": Replace(lambda h, layout: h * shift[2]),
    }
    have = backbone(x, edits).tokens
    inner = module.patch_embed((x + bias) * 2) + shift[0]
    inner = module.blocks[0](module.norm_pre(module._pos_embed(inner))) + shift[1]
    want = module.norm(module.blocks[2](module.blocks[1](inner))) * shift[2]
    close(have, want)
    assert seen[0].segments == (("token", 16),)
    assert seen[1].count("class") + seen[1].count("register") == backbone.num_prefix


@pytest.mark.parametrize("name", ["class", "dinov2", "qk_norm", "scale_norm", "differential"])
@pytest.mark.parametrize("with_prompts", [False, True])
def test_edits_inside_blocks(name: str, with_prompts: bool) -> None:
    """attn_out is what joins the residual stream, mlp_in a branch beside the MLP; dropped prompts are never seen."""
    backbone = network(name)
    module: Any = backbone.module
    x, tokens, lengths = images(backbone), prompts(backbone), []
    inside = nn.Linear(32, 32).double().requires_grad_(False)

    def fn(hidden: Tensor, layout: Any) -> Tensor:
        lengths.append((hidden.shape[1], len(layout)))
        return torch.tanh(inside(hidden.flip(1)))

    edits: dict[str, Any] = {"attn_out[1]": [Add(fn), Replace(lambda h, _: h * 1.5)], "mlp_in[2]": [Add(fn), Add(fn)]}
    edits |= deep(tokens) if with_prompts else {}
    prefix, hidden = backbone.num_prefix, embed(backbone, x)[0]
    for layer, block in enumerate(module.blocks):
        rows = tokens[layer].expand(3, -1, -1)[:, : 5 * with_prompts]
        joined = block.norm1(torch.cat([hidden[:, :prefix], rows, hidden[:, prefix:]], 1))
        attended = block.ls1(block.attn(joined))
        attended = torch.cat([attended[:, :prefix], attended[:, prefix + rows.shape[1] :]], 1)
        if layer == 1:
            attended = 1.5 * (attended + torch.tanh(inside(attended.flip(1))))
        hidden = hidden + attended
        branch = 2 * torch.tanh(inside(hidden.flip(1))) if layer == 2 else 0
        hidden = hidden + block.ls2(block.mlp(block.norm2(hidden))) + branch
    close(backbone(x, edits).tokens, module.norm(hidden))
    with reference_kernels():
        close(backbone(x, edits).tokens, module.norm(hidden))
    assert set(lengths) == {(16 + prefix, 16 + prefix)}


def test_key_values_join_each_other_and_prompts() -> None:
    backbone = network("class")
    x, tokens, rng = images(backbone), prompts(backbone), torch.Generator().manual_seed(7)

    def pair(rows: int) -> tuple[Tensor, Tensor]:
        k, v = torch.randn(2, rows, 4, 2, 8, generator=rng).double()
        return k, v

    shared, rows, bank, index = pair(1), pair(3), pair(5), torch.tensor([4, 0, 4])
    for parts in ([KeyValue(*shared)], [KeyValue(*shared), KeyValue(*rows)], [KeyValue(*bank, index), KeyValue(*rows)]):
        edits: dict[str, Any] = {"kv[1]": parts, "tokens[1]": Insert(tokens[1])}
        have = backbone(x, edits).tokens
        module: Any = backbone.module
        hidden = module.blocks[0](embed(backbone, x)[0])
        block = module.blocks[1]
        q, k, v = _heads(block, block.norm1(hidden))
        _, pk, pv = _heads(block, block.norm1(tokens[1])[None])
        own = [(p.k[p.index], p.v[p.index]) if p.index is not None else (p.k, p.v) for p in parts]
        keys = torch.cat([*(x.expand(3, -1, -1, -1) for x, _ in own), pk.expand(3, -1, -1, -1), k], 2)
        values = torch.cat([*(x.expand(3, -1, -1, -1) for _, x in own), pv.expand(3, -1, -1, -1), v], 2)
        mixed = ((q @ keys.transpose(2, 3)) * 8**-0.5).softmax(-1) @ values
        hidden = hidden + block.attn.proj(mixed.transpose(1, 2).flatten(2))
        hidden = hidden + block.mlp(block.norm2(hidden))
        close(have, module.norm(module.blocks[2](hidden)))
        with reference_kernels():
            close(backbone(x, edits).tokens, have)


def _heads(block: Any, normed: Tensor) -> Any:
    return block.attn.qkv(normed).reshape(len(normed), -1, 3, 4, 8).permute(2, 0, 3, 1, 4)


def test_blocked_prompt_keys_change_nothing() -> None:
    backbone = network("class")
    with torch.no_grad():  # the first entry of every query is 1, so a key can be far from all of them
        for block in backbone.module.blocks:
            rows = torch.arange(0, 32, 8)
            block.attn.qkv.weight[rows] = 0
            block.attn.qkv.bias[rows] = 1
    x, key = images(backbone), torch.zeros(1, 4, 3, 8).double()
    value = torch.full_like(key, 100.0)
    far = key.clone()
    far[..., 0] = -1e5
    plain = backbone(x).tokens
    close(backbone(x, {f"kv[{n}]": KeyValue(far, value) for n in range(3)}).tokens, plain, 1e-12)
    near = backbone(x, {f"kv[{n}]": KeyValue(key, value) for n in range(3)}).tokens
    assert (near - plain).abs().max() > 0.1, "the same values in reach are seen"


@pytest.mark.parametrize("name", ["class", "dinov3"])
def test_no_prompts_is_the_plain_network_bit_for_bit(name: str) -> None:
    backbone = network(name)
    x, empty = images(backbone), torch.zeros(0, 32).double()
    for keep in (False, True):
        for read in (None, ("class",)):
            have = backbone(x, deep([empty] * 3, keep_output=keep), read=read)
            assert torch.equal(have.tokens, backbone(x, read=read).tokens)
            assert have.layout == backbone(x, read=read).layout


def test_inserts_are_applied_in_order_and_see_the_sequence() -> None:
    backbone, seen = network("registers"), []
    x, tokens = images(backbone), prompts(backbone)

    def note(hidden: Tensor, layout: Any) -> Tensor:
        seen.append((tuple(hidden.shape), layout.segments))
        return hidden[:, layout.slice("token")][:, :2] * 0.5

    edits: dict[str, Any] = {"tokens[1]": [Insert(tokens[0], keep_output=True), Insert(note), Insert(tokens[1])]}
    have = backbone(x, edits)
    module: Any = backbone.module
    hidden = module.blocks[0](embed(backbone, x)[0])
    extra = torch.cat([hidden[:, 4:6] * 0.5, tokens[1].expand(3, -1, -1)], 1)
    joined = torch.cat([hidden[:, :4], tokens[0].expand(3, -1, -1), hidden[:, 4:], extra], 1)
    want = module.norm(module.blocks[2](module.blocks[1](joined)[:, :25]))
    close(have.tokens, want)
    assert seen == [((3, 25, 32), (("class", 1), ("register", 3), ("prompt", 5), ("token", 16)))]


def test_dynamic_sizes_and_patch_dropout() -> None:
    backbone = network("dynamic")
    x = torch.randn(2, 3, 40, 24, generator=torch.Generator().manual_seed(0)).double()
    features = backbone(x, deep(prompts(backbone)))
    assert features.layout.grid == (5, 3)
    close(features.tokens, deep_loop(backbone, x, prompts(backbone)))
    dropping = adapt(randomise(_patch_dropping()), "tiny:drop")
    claim = dropping.claim("blocks.0.*")
    claim.stochastic = True
    assert dropping(images(dropping).float(), weights=claim).layout.segments == (("class", 1), ("token", 8))
    assert dropping(images(dropping).float()).layout.segments == (("class", 1), ("token", 16))


def _patch_dropping() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=0, patch_drop_rate=0.5
    )


@pytest.mark.parametrize("name", ["class", "dinov2", "siglip", "dinov3"])
def test_claimed_copies_run_like_the_frozen_network_and_take_all_gradient(name: str) -> None:
    backbone = network(name)
    x, tokens = images(backbone), prompts(backbone)
    claim = backbone.claim("*", buffers=True).double()
    for mode in (nullcontext(), reference_kernels()):
        with mode:
            have = backbone(x, deep(tokens), weights=claim).tokens
        close(have, backbone(x, deep(tokens)).tokens, 1e-6)  # claims are copied as float32
    features = backbone(x, deep(tokens), weights=claim, read=backbone.pool_segments())
    pooled = backbone.pool(features, weights=claim)
    pooled.square().sum().backward()
    assert not [key for key, tensor in claim.named_parameters() if tensor.grad is None], "pooling weights take part too"
    assert all(tensor.grad is None and not tensor.requires_grad for tensor in backbone.module.parameters())


def test_claims_in_the_fast_path_equal_a_fine_tuned_network() -> None:
    """A changed claim runs as a network with these weights would, in keys and values of prompts too."""
    backbone = network("class")
    x, tokens = images(backbone), prompts(backbone)
    claim = backbone.claim("blocks.*.attn.qkv.*", "blocks.*.norm1.*").double()
    tuned = copy.deepcopy(backbone.module)
    with torch.no_grad():
        for key, tensor in claim.tensors().items():
            tensor.mul_(1.3)
            tuned.get_parameter(key).copy_(tensor)
    want = adapt(tuned, "tuned")
    for read in (None, ("class",)):
        have = backbone(x, deep(tokens), weights=claim, read=read).tokens
        close(have, want(x, deep(tokens), read=read).tokens)
        assert (have - backbone(x, deep(tokens), read=read).tokens).abs().max() > 1e-3


def test_frozen_stays_frozen() -> None:
    backbone = adapt(randomise(_patch_dropping()), "tiny:frozen")
    x = images(backbone).float()
    before = {key: tensor.clone() for key, tensor in backbone.module.state_dict().items()}
    claim = backbone.claim("norm.*")
    claim.stochastic = True
    with pytest.raises(UserError, match="returned"):
        backbone(x, {"features": Replace(lambda h, _: h[:, :1])}, weights=claim)
    assert not any(module.training for module in backbone.module.modules()), "eval mode comes back after an error"
    tokens = [torch.randn(4, 32, requires_grad=True) for _ in range(2)]
    for _ in range(3):
        backbone(x, deep(tokens)).tokens.sum().backward()
    assert all(token.grad is not None for token in tokens)
    assert all(parameter.grad is None for parameter in backbone.module.parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in backbone.module.state_dict().items())


def test_second_derivatives_inside_reference_kernels() -> None:
    backbone = network("class")
    x, tokens = images(backbone, batch=2), prompts(backbone)
    with reference_kernels():
        out = backbone(x, deep(tokens)).tokens
    (gradient,) = torch.autograd.grad(out.square().sum(), tokens[:1], create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), tokens[1:2])
    assert second.abs().max() > 0


@pytest.mark.parametrize("name", ["class", "qk_norm", "dinov3"])
@pytest.mark.parametrize("how", ["bfloat16", "autocast"])
def test_low_precision_keeps_prompts_in_float32(name: str, how: str) -> None:
    """Results are as exact as the low-precision network itself is without prompts."""
    full, backbone = network(name), network(name)
    backbone.to("cpu", torch.bfloat16 if how == "bfloat16" else torch.float32)
    x = images(backbone).float()
    tokens = [token.detach().float().requires_grad_() for token in prompts(backbone)]
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        have = backbone(x, deep(tokens))
        kept = backbone(x, {"tokens[0]": Insert(tokens[0], keep_output=True)}).tokens
        lowered = backbone(x, backbone.lower(deep(tokens))).tokens
        plain = backbone(x).tokens
    exact = [token.detach().double() for token in tokens]
    wanted = full(x.double(), deep(exact)).tokens
    own_error = (plain.double() - full(x.double()).tokens).norm()
    for value in (have.tokens, lowered):
        assert (value.double() - wanted).norm() < 2 * own_error < 0.2 * wanted.norm()
    assert kept.isfinite().all()
    have.tokens.float().square().sum().backward()
    assert all(
        token.grad is not None and token.grad.dtype == torch.float32 and token.grad.isfinite().all() for token in tokens
    )


def test_fingerprint_knows_copies_and_strangers() -> None:
    first, again, other = (adapt(randomise(PLAIN["class"](), seed), "tiny") for seed in (0, 0, 1))
    assert first.fingerprint().compare(again.fingerprint()) == "same"
    assert first.fingerprint().compare(other.fingerprint()) == "different"
    low = adapt(copy.deepcopy(first.module).bfloat16(), "tiny")
    assert first.fingerprint().compare(low.fingerprint()) == "recast"
    renamed = {f"other.{key}": tensor for key, tensor in reversed(first.module.state_dict().items())}
    assert fingerprint_tensors(renamed.values()).compare(first.fingerprint()) == "same"


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"tokens[0]": Insert(torch.zeros(4, 31))}, r"\(1, 4, 31\).*\(batch, tokens, 32\)"),
        ({"tokens[0]": Insert(torch.zeros(2, 4, 32))}, "2 sets of prompts for a batch of 3"),
        ({"tokens[0]": Insert(torch.zeros(2, 4, 32), index=torch.tensor([0, 1]))}, r"index has shape \(2,\)"),
        ({"kv[0]": KeyValue(torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 4, 8))}, r"\(1 \| batch, 4, prompt, 8\)"),
        ({"kv[0]": KeyValue(torch.zeros(2, 4, 4, 8), torch.zeros(2, 4, 4, 8))}, "2 sets of keys"),
        ({"kv[3]": KeyValue(torch.zeros(1, 4, 4, 8), torch.zeros(1, 4, 4, 8))}, r"l below 3"),
        ({"attn_in[0]": Add(lambda h, _: h)}, "no site 'attn_in"),
        ({"features": Replace(lambda h, _: h[:, :2])}, r"returned \(3, 2, 32\)"),
        ({"mlp_in[0]": Add(lambda h, _: h[:, :2])}, r"returned \(3, 2, 32\)"),
        (
            {f"tokens[{n}]": Insert(torch.zeros(2, 32), keep_output=True) for n in (0, 1)},
            "2 kept prompts are in the seq",
        ),
    ],
)
def test_edits_that_do_not_fit(edits: dict[str, Any], message: str) -> None:
    backbone = network("class")
    with pytest.raises(UserError, match=message):
        backbone(images(backbone), edits)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 3, 40, 32), "images are 40x32, backbone 'tiny:class' takes 32x32"),
        (torch.zeros(2, 1, 32, 32), r"\(batch, 3, rows, columns\)"),
        (torch.zeros(3, 32, 32), r"got \(3, 32, 32\)"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "normalised floats, got uint8"),
    ],
)
def test_images_that_do_not_fit(x: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        network("class")(x)


def test_other_refusals() -> None:
    with pytest.raises(UserError, match="no multiple of the patch size 8x8"):
        network("dynamic")(torch.zeros(1, 3, 36, 32))
    with pytest.raises(UserError, match="unknown pooling 'tokens' .did you mean 'token'"):
        network("class").pool_segments("tokens")
    with pytest.raises(UserError, match="no class token"):
        network("siglip").pool_segments("class")
    backbone = network("class")
    with pytest.raises(UserError, match="has no prompt tokens to read"):
        backbone(images(backbone), read=("prompt",))
    with pytest.raises(UserError, match="no site 'kv"):
        network("dinov3").check_edits({"kv[0]": KeyValue(torch.zeros(1), torch.zeros(1))})


@pytest.mark.parametrize(
    ("rows", "batch", "lowered", "bound"),
    [("shared", 4, False, 1.05), ("per_row", 4, False, 1.11), ("shared", 1, True, 1.03), ("shared", 16, True, 1.03)],
)
def test_cost_of_100_deep_prompts_on_vit_base(rows: str, batch: int, lowered: bool, bound: float) -> None:
    """Operations relative to the frozen forward pass; concatenation needs 1.535 of them."""
    import timm

    with torch.device("meta"):
        backbone = adapt(timm.create_model("vit_base_patch16_224", num_classes=0), "meta")
        x = torch.zeros(batch, 3, 224, 224)
        shape = (100, 768) if rows == "shared" else (batch, 100, 768)
        edits: Any = deep([torch.zeros(shape)] * 12)

        def cost(edits: Any) -> int:
            with flop_counter() as count, torch.no_grad():
                backbone(x, edits)
            assert any("bmm" in str(op) or "attention" in str(op) for op in count.get_flop_counts()["Global"])
            return count.get_total_flops()

        frozen = cost({})
        ratio = cost(backbone.lower(edits) if lowered else edits) / frozen
        with reference_kernels():
            concatenated = cost(edits) / frozen
    assert 1.01 < ratio <= bound
    assert concatenated == pytest.approx(1.535, abs=2e-3)
