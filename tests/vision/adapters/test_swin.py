"""The Swin adapter: equal to timm without edits, and with edits equal to loops over images and windows."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from pt_core.backbone import Add, Insert, KeyValue, Replace
from pt_core.errors import UserError
from pt_core.kernels import flop_counter, reference_kernels
from pt_vision.adapters import adapt
from pt_vision.adapters.base import VisionBackbone
from torch import Tensor

from tests.vision.nets import SWIN, close, images, network, prompts, pull, randomise

NAMES = [f"swin_{name}" for name in SWIN]


def window_rows(block: Any, rows: int, columns: int) -> Tensor:
    """(windows, area): which token stands at each place of each window after shift and padding; -1 is padding."""
    high, wide = block.window_size
    places = torch.arange(rows * columns).view(rows, columns).roll([-s for s in block.shift_size], (0, 1))
    padded = torch.nn.functional.pad(places, (0, -columns % wide, 0, -rows % high), value=-1)
    return padded.unfold(0, high, high).unfold(1, wide, wide).reshape(-1, high * wide)


def attention_loop(
    block: Any, own: Tensor, kept: Tensor, dropped: Tensor, grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """One image, window by window: own (tokens, dim), kept and dropped prompts (length, dim), all after norm1."""
    attn, mask = block.attn, block.get_attn_mask(_padded(block, grid)) if block.dynamic_mask else block.attn_mask
    head_dim = attn.qkv.out_features // 3 // attn.num_heads
    out, of_kept, front = torch.zeros_like(own), [], len(kept) + len(dropped)
    for number, places in enumerate(window_rows(block, *grid)):
        window = torch.where(places[:, None] >= 0, own[places.clamp(min=0)], 0.0)
        q, k, v = (
            attn.qkv(torch.cat([dropped, kept, window])).reshape(-1, 3, attn.num_heads, head_dim).permute(1, 2, 0, 3)
        )
        bias = attn._get_rel_pos_bias()[0] + (0 if mask is None else mask[number])
        scores = q @ k.transpose(1, 2) * head_dim**-0.5
        scores = scores + torch.nn.functional.pad(bias, (front, 0, front, 0))
        mixed = attn.proj((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))
        of_kept.append(mixed[len(dropped) : front])
        real = places >= 0
        out = out.index_put((places[real],), mixed[front:][real])
    return out, torch.stack(of_kept).mean(0)


def _padded(block: Any, grid: tuple[int, int]) -> Tensor:
    rows, columns = (size + -size % window for size, window in zip(grid, block.window_size, strict=True))
    return torch.zeros(1, rows, columns, 1).double()


def swin_loop(
    backbone: VisionBackbone, image: Tensor, kept: Tensor | None, first: int, dropped: list[Tensor] | None
) -> Tensor:
    """One image (3, rows, columns) -> ([prompt +] tokens, dim)."""
    module: Any = backbone.module
    x = module.patch_embed(image[None])[0]
    held, layer = torch.zeros(0, x.shape[-1]).double(), 0
    for stage in module.layers:
        if hasattr(stage.downsample, "reduction"):
            merging = stage.downsample
            x = merging(x[None])[0]
            held = merging.reduction(merging.norm(torch.cat([held] * 4, -1)))
        grid = (x.shape[0], x.shape[1])
        own = x.flatten(0, 1)
        for block in stage.blocks:
            if kept is not None and layer == first:
                held = kept
            lost = torch.zeros(0, own.shape[1]).double() if dropped is None else dropped[layer]
            a_own, a_held = attention_loop(block, block.norm1(own), block.norm1(held), block.norm1(lost), grid)
            own, held = own + a_own, held + a_held
            own, held = own + block.mlp(block.norm2(own)), held + block.mlp(block.norm2(held))
            layer += 1
        x = own.reshape(*grid, -1)
    return module.norm(torch.cat([held, own]))


@pytest.mark.parametrize("name", NAMES)
def test_without_edits_it_is_timm(name: str) -> None:
    backbone = network(name)
    x = images(backbone)
    features, want = backbone(x), backbone.module.forward_features(x)
    torch.testing.assert_close(features.tokens, want.flatten(1, 2), rtol=0, atol=0)
    assert features.layout.grid == tuple(want.shape[1:3]) == backbone.grid
    for read in (None, backbone.pool_segments()):
        pooled = backbone.pool(backbone(x, read=read))
        close(pooled, backbone.module.forward_head(want, pre_logits=True), 1e-12)
        assert pooled.shape == (3, backbone.feature_dim)


@pytest.mark.parametrize("name", NAMES)
def test_stages_and_widths(name: str) -> None:
    backbone, seen = network(name), {}

    def note(layer: int) -> Any:
        return Add(lambda h, layout: seen.update({layer: (h.shape[1], h.shape[2], layout.grid)}) or torch.zeros_like(h))

    backbone(images(backbone), {f"tokens[{layer}]": note(layer) for layer in range(backbone.depth)})
    for stage in backbone.stages:  # type: ignore[attr-defined]
        for layer in range(stage.first_block, stage.first_block + stage.depth):
            rows, columns = stage.resolution
            assert seen[layer] == (rows * columns, stage.dim, stage.resolution)
            assert (backbone.token_count(layer), backbone.width(layer)) == (rows * columns, stage.dim)
    assert len(seen) == backbone.depth == len(backbone.dims)


@pytest.mark.parametrize("name", NAMES)
def test_deep_prompts_fast_reference_and_loop_agree(name: str) -> None:
    backbone = network(name)
    x, tokens = images(backbone, batch=2), prompts(backbone)
    want = torch.stack([swin_loop(backbone, image, None, 0, tokens) for image in x])
    want_gradients = pull(want, tokens)
    edits = {f"tokens[{layer}]": Insert(prompt) for layer, prompt in enumerate(tokens)}
    for mode in (nullcontext(), reference_kernels()):
        with mode:
            have = backbone(x, edits)
        close(have.tokens, want)
        assert have.layout.count("prompt") == 0
        for have_gradient, gradient in zip(pull(have.tokens, tokens), want_gradients, strict=True):
            close(have_gradient, gradient)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("first", [0, 1, 2])
def test_kept_prompts_fast_reference_and_loop_agree(name: str, first: int) -> None:
    """Per-row prompts through shifts and patch merging: copies of different images must not mix."""
    backbone = network(name)
    x, drawn = images(backbone, batch=2), prompts(backbone, rows=2)
    tokens = drawn[first]
    want = torch.stack([swin_loop(backbone, image, own, first, None) for image, own in zip(x, tokens, strict=True)])
    (want_gradient,) = pull(want, [tokens])
    for mode in (nullcontext(), reference_kernels()):
        with mode:
            have = backbone(x, {f"tokens[{first}]": Insert(tokens, keep_output=True)})
        assert have.layout.segments[0] == ("prompt", 5)
        close(have.tokens, want)
        close(pull(have.tokens, [tokens])[0], want_gradient)


def test_kept_and_dropped_prompts_together() -> None:
    backbone = network("swin_shifted")
    x, tokens = images(backbone, batch=2), prompts(backbone)
    kept = prompts(backbone, length=3, seed=9)[0]
    want = torch.stack([swin_loop(backbone, image, kept, 0, tokens) for image in x])
    edits: dict[str, Any] = {f"tokens[{layer}]": Insert(prompt) for layer, prompt in enumerate(tokens)}
    edits["tokens[0]"] = [Insert(kept, keep_output=True), edits["tokens[0]"]]
    for mode in (nullcontext(), reference_kernels()):
        with mode:
            close(backbone(x, edits).tokens, want)
    close(backbone(x, backbone.lower(edits)).tokens, want)


@pytest.mark.parametrize("name", ["swin_shifted", "swin_padded"])
@pytest.mark.parametrize("keep", [False, True])
def test_an_image_does_not_see_its_batch(name: str, keep: bool) -> None:
    """The published code mixes prompts of different images from the second block on; per-row prompts would show it."""
    backbone = network(name)
    x, tokens = images(backbone, batch=2), prompts(backbone, rows=2)
    used = tokens[:1] if keep else tokens

    def run(rows: slice) -> Tensor:
        return backbone(x[rows], {f"tokens[{n}]": Insert(p[rows], keep_output=keep) for n, p in enumerate(used)}).tokens

    whole = run(slice(0, 2))
    close(whole[:1], run(slice(0, 1)))
    close(whole[1:], run(slice(1, 2)))
    swapped = backbone(x, {f"tokens[{n}]": Insert(p.flip(0), keep_output=keep) for n, p in enumerate(used)}).tokens
    assert (swapped - whole).abs().max() > 1e-2, "the test would notice other prompts"


@pytest.mark.parametrize("keep", [False, True])
def test_bank_index_and_lowering(keep: bool) -> None:
    backbone = network("swin_shifted")
    x, bank, index = images(backbone), prompts(backbone, rows=4), torch.tensor([3, 0, 3])
    chosen = bank[:1] if keep else bank
    edits = {f"tokens[{n}]": Insert(p, keep_output=keep, index=index) for n, p in enumerate(chosen)}
    have = backbone(x, edits).tokens
    want = backbone(x, {f"tokens[{n}]": Insert(p[index], keep_output=keep) for n, p in enumerate(chosen)}).tokens
    close(have, want)
    for one, other in zip(pull(have, chosen), pull(want, chosen), strict=True):
        close(one, other)
    lowered = backbone.lower(edits)
    assert sorted(lowered) == (["tokens[0]"] if keep else [f"kv[{n}]" for n in range(4)])
    for mode in (nullcontext(), reference_kernels()):
        with mode:
            close(backbone(x, lowered).tokens, want)


def test_no_prompts_is_the_plain_network_bit_for_bit() -> None:
    backbone = network("swin_padded")
    x = images(backbone)
    for keep in (False, True):
        empty = {
            f"tokens[{n}]": Insert(torch.zeros(0, backbone.width(n)), keep_output=keep) for n in range(backbone.depth)
        }
        assert torch.equal(backbone(x, empty).tokens, backbone(x).tokens)


@pytest.mark.parametrize("name", NAMES)
def test_edits_inside_blocks(name: str) -> None:
    """attn_out is in raster order before the residual; mlp_in is a branch beside the MLP."""
    backbone = network(name)
    module: Any = backbone.module
    x, last = images(backbone), backbone.depth - 1
    width = backbone.width(last)
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(3)).double()
    edits: dict[str, Any] = {
        "pixels": Replace(lambda h, _: h * 0.5),
        f"attn_out[{last}]": [Add(lambda h, _: torch.tanh(h.flip(1) @ mix)), Replace(lambda h, _: h * 1.5)],
        f"mlp_in[{last}]": Add(lambda h, _: torch.tanh(h.flip(1) @ mix)),
        "features": Add(lambda h, _: h.mean(1, keepdim=True).expand_as(h)),
    }
    hidden = module.patch_embed(x * 0.5)
    for stage in module.layers[:-1]:
        hidden = stage(hidden)
    hidden = module.layers[-1].downsample(hidden)
    *others, block = module.layers[-1].blocks
    for other in others:
        hidden = other(hidden)
    attended = block._attn(block.norm1(hidden)).flatten(1, 2)
    attended = 1.5 * (attended + torch.tanh(attended.flip(1) @ mix))
    hidden = hidden.flatten(1, 2) + attended
    hidden = hidden + block.mlp(block.norm2(hidden)) + torch.tanh(hidden.flip(1) @ mix)
    hidden = module.norm(hidden)
    want = hidden + hidden.mean(1, keepdim=True)
    for mode in (nullcontext(), reference_kernels()):
        with mode:
            close(backbone(x, edits).tokens, want)


def test_edits_see_kept_prompts_first() -> None:
    backbone, seen = network("swin_shifted"), []
    x, prompt = images(backbone), prompts(backbone)[0]

    def note(hidden: Tensor, layout: Any) -> Tensor:
        seen.append((hidden.shape[1], layout.segments, layout.grid))
        return torch.zeros_like(hidden)

    edits: dict[str, Any] = {site: Add(note) for site in ("attn_out[1]", "mlp_in[1]", "tokens[2]", "features")}
    backbone(x, edits | {"tokens[0]": Insert(prompt, keep_output=True)})
    first, second = (("prompt", 5), ("token", 256)), (("prompt", 5), ("token", 64))
    assert seen == [(261, first, (16, 16))] * 2 + [(69, second, (8, 8))] * 2


def test_pooling_means() -> None:
    backbone = network("swin_shifted")
    features = backbone(images(backbone), {"tokens[0]": Insert(prompts(backbone)[0], keep_output=True)})
    close(backbone.pool(features, "default"), features.tokens[:, 5:].mean(1))
    close(backbone.pool(features, "token"), features.tokens[:, 5:].mean(1))
    close(backbone.pool(features, "prompt"), features.tokens[:, :5].mean(1))
    close(backbone.pool(features, "all"), features.tokens.mean(1))
    close(backbone.pool(features, "all_but_class"), features.tokens.mean(1))


def test_claims() -> None:
    backbone = network("swin_shifted")
    x, tokens = images(backbone), prompts(backbone)
    claim = backbone.claim("*", buffers=True).double()
    with torch.no_grad():
        for tensor in claim.parameters():
            tensor.mul_(1.1)
    edits = {f"tokens[{layer}]": Insert(prompt) for layer, prompt in enumerate(tokens)}
    fast = backbone(x, edits, weights=claim)
    with reference_kernels():
        slow = backbone(x, edits, weights=claim)
    close(fast.tokens, slow.tokens)
    leaves = list(claim.parameters())
    for one, other in zip(pull(fast.tokens, leaves), pull(slow.tokens, leaves), strict=True):
        close(one, other)
    assert (fast.tokens - backbone(x, edits).tokens).abs().max() > 1e-2
    assert all(parameter.grad is None for parameter in backbone.module.parameters())


def test_stochastic_claims_drop_and_frozen_networks_do_not() -> None:
    from timm.models.swin_transformer import SwinTransformer

    made = SwinTransformer(
        img_size=32, patch_size=2, embed_dim=16, num_classes=0, depths=(2, 2), num_heads=(2, 4), window_size=4,
        attn_drop_rate=0.3, proj_drop_rate=0.3, drop_path_rate=0.3,
    )  # fmt: skip
    backbone = adapt(randomise(made.double()), "tiny")
    x, claim = images(backbone), backbone.claim("norm.*").double()
    edits = {"tokens[1]": Insert(prompts(backbone)[1])}
    assert torch.equal(backbone(x, edits, weights=claim).tokens, backbone(x, edits, weights=claim).tokens)
    claim.stochastic = True
    assert (backbone(x, edits, weights=claim).tokens - backbone(x, edits, weights=claim).tokens).abs().max() > 1e-3
    claim.eval()
    close(backbone(x, edits, weights=claim).tokens, backbone(x, edits).tokens, 1e-6)


@pytest.mark.parametrize("how", ["bfloat16", "autocast"])
def test_low_precision(how: str) -> None:
    full, backbone = network("swin_shifted"), network("swin_shifted")
    backbone.to("cpu", torch.bfloat16 if how == "bfloat16" else torch.float32)
    x = images(backbone).float()
    tokens = [token.detach().float().requires_grad_() for token in prompts(backbone)]
    edits = {f"tokens[{layer}]": Insert(prompt) for layer, prompt in enumerate(tokens)}
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        plain, have = backbone(x).tokens, backbone(x, edits).tokens
        kept = backbone(x, {"tokens[0]": Insert(tokens[0], keep_output=True)}).tokens
    want = full(x.double(), {site: Insert(edit.tokens.detach().double()) for site, edit in edits.items()}).tokens  # type: ignore[union-attr]
    own_error = (plain.double() - full(x.double()).tokens).norm()
    assert (have.double() - want).norm() < 2 * own_error < 0.2 * want.norm()
    assert kept.isfinite().all()
    have.float().square().sum().backward()
    assert all(token.grad is not None and token.grad.dtype == torch.float32 for token in tokens)


def test_refusals() -> None:
    backbone = network("swin_shifted")
    x = images(backbone)
    with pytest.raises(UserError, match=r"\(1, 4, 16\) do not fit 'tokens\[2\]', which has \(batch, tokens, 32\)"):
        backbone(x, {"tokens[2]": Insert(torch.zeros(4, 16))})
    with pytest.raises(UserError, match="width 32"):
        backbone.lower({"tokens[2]": Insert(torch.zeros(4, 16))})
    with pytest.raises(UserError, match=r"\(1 \| batch, 4, prompt, 8\)"):
        backbone(x, {"kv[2]": KeyValue(torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 3, 8))})
    with pytest.raises(UserError, match="no class token"):
        backbone.pool_segments("class")
    with pytest.raises(UserError, match="takes 32x32"):
        backbone(x[:, :, :16, :16])
    with pytest.raises(UserError, match="no site 'input'"):
        backbone(x, {"input": Add(lambda h, _: h)})


def test_dynamic_sizes() -> None:
    backbone = network("swin_dynamic")
    x = torch.randn(2, 3, 24, 40, generator=torch.Generator().manual_seed(0)).double()
    tokens = prompts(backbone)
    have = backbone(x, {f"tokens[{layer}]": Insert(prompt) for layer, prompt in enumerate(tokens)})
    assert have.layout.grid == (6, 10)
    close(have.tokens, torch.stack([swin_loop(backbone, image, None, 0, tokens) for image in x]))


def test_dropped_prompts_cost_keys_and_values_only() -> None:
    import timm

    with torch.device("meta"):
        backbone = adapt(timm.create_model("swin_tiny_patch4_window7_224", num_classes=0), "meta")
        x = torch.zeros(4, 3, 224, 224)
        edits: Any = {f"tokens[{n}]": Insert(torch.zeros(10, backbone.width(n))) for n in range(backbone.depth)}

        def cost(edits: Any) -> int:
            with flop_counter() as count, torch.no_grad():
                backbone(x, edits)
            return count.get_total_flops()

        frozen = cost({})
        fast = cost(edits) / frozen
        with reference_kernels():
            concatenated = cost(edits) / frozen
    assert 1 < fast < 1.03 < concatenated
