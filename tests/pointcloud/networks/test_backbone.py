"""The Transformer and its adapter: published counts and layouts, every site against a slow loop, resuming from packed tokens."""

from __future__ import annotations

import pytest
import torch
from pt_core import Add, Insert, Replace
from pt_core.backbone import KeyValue
from pt_core.data import generator
from pt_core.errors import DataError, UserError
from pt_core.kernels import reference_kernels
from pt_core.randomness import Dropout, row_keys, sampled_by
from pt_pointcloud.networks.backbone import Resume
from pt_pointcloud.networks.grouping import group, group_indices
from pt_pointcloud.networks.head import build_head
from pt_pointcloud.networks.transformer import Blocks, PatchEncoder, PointConfig, PointTransformer
from torch import Tensor, nn

from tests.pointcloud.common import batch_of, close, tiny

POINTS = batch_of().inputs["points"]


def prompt(*shape: int, seed: int = 0) -> Tensor:
    return 0.5 * torch.randn(*shape, generator=generator("prompt", seed, *shape))


def slow(backbone, points: Tensor, inserts: dict[int, Tensor] | None = None, class_token: bool = False) -> Tensor:
    """Point-MAE as published: x <- Block(x + p), deep prompts in front of a block and dropped behind it."""
    net = backbone.module
    centres, patches = group(points, backbone.groups, backbone.config.group_size)
    x, p = net.embed(patches), net.pos_embed(centres)
    if class_token:
        x = torch.cat([net.cls_token.expand(len(x), -1, -1), x], 1)
        p = torch.cat([net.cls_pos.expand(len(x), -1, -1), p], 1)
    for layer, block in enumerate(net.blocks.blocks):
        x = x + p
        extra = (inserts or {}).get(layer)
        if extra is not None:
            x = torch.cat([extra.expand(len(x), *extra.shape[-2:]), x], 1)
        x = block(x)
        if extra is not None:
            x = x[:, extra.shape[-2] :]
    return net.norm(x)


def test_counts_are_those_of_the_published_models():
    with torch.device("meta"):
        net = PointTransformer(PointConfig())
        bert = PointTransformer(PointConfig(encoder_dim=256))
    frozen = sum(p.numel() for name, p in net.named_parameters() if not name.startswith("cls_"))
    assert frozen == 21_825_024
    assert net.cls_token.numel() + net.cls_pos.numel() == 768
    assert bert.reduce_dim.weight.shape == (384, 256)


def test_the_patch_encoder_is_the_published_order_of_convolutions():
    """Conv1d, BatchNorm, ReLU, Conv1d, max, concatenation, and the same again, on (patch, channel, point)."""
    encoder, patches = PatchEncoder(8, 12), torch.randn(3, 4, 10, 3, generator=generator("patches"))
    for training in (True, False):
        encoder.train(training)
        other = PatchEncoder(8, 12).train(training)
        other.load_state_dict(encoder.state_dict())
        x = patches.flatten(0, 1).transpose(1, 2)
        local = other.first_conv(x)
        whole = torch.cat([local.amax(2, keepdim=True).expand_as(local), local], 1)
        want = other.second_conv(whole).amax(2).view(3, 4, 12)
        close(encoder(patches), want, 1e-5)
        for a, b in zip(encoder.buffers(), other.buffers(), strict=True):
            torch.testing.assert_close(a, b)


def test_patches_hold_their_centre_and_its_nearest_points():
    centres, patches = group(POINTS, 8, 6)
    assert torch.equal(patches[:, :, 0], torch.zeros(9, 8, 3))
    norms = patches.norm(dim=-1)
    assert (norms.diff(dim=2) >= 0).all()
    distance = (centres[:, :, None] - POINTS[:, None]).norm(dim=-1)
    torch.testing.assert_close(norms, distance.topk(6, largest=False).values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("class_token", [True, False])
def test_it_is_the_published_forward_pass(class_token):
    backbone = tiny(class_token=class_token)
    features = backbone(POINTS)
    close(features.tokens, slow(backbone, POINTS, class_token=class_token))
    assert len(features.layout) == 8 + class_token
    torch.testing.assert_close(features.extra["centres"], group(POINTS, 8, 6)[0])


def test_the_class_token_takes_part_where_it_was_trained_or_is_given():
    bare, trained = tiny(), tiny(class_token=True)
    assert bare(POINTS).layout.count("class") == 0
    assert trained(POINTS).layout.count("class") == 1
    assert trained(POINTS, class_token=False).layout.count("class") == 0
    assert bare(POINTS, weights=bare.claim("cls_*")).layout.count("class") == 1


@pytest.mark.parametrize("mode", ["fast", "reference"])
def test_deep_prompts_are_tokens_that_leave_behind_their_block(mode):
    backbone = tiny(class_token=True)
    inserts = {0: prompt(4, 16), 2: prompt(9, 5, 16, seed=1)}
    edits = {f"tokens[{layer}]": Insert(tokens) for layer, tokens in inserts.items()}
    want = slow(backbone, POINTS, inserts, class_token=True)
    if mode == "fast":
        close(backbone(POINTS, edits).tokens, want)
        close(backbone(POINTS, backbone.lower(edits)).tokens, want)
    else:
        with reference_kernels():
            close(backbone(POINTS, edits).tokens, want)
            assert backbone.lower(edits) is edits


def test_kept_prompts_stay_and_get_no_position():
    backbone = tiny(class_token=True)
    features = backbone(POINTS, {"tokens[1]": Insert(prompt(2, 16), keep_output=True)})
    assert features.layout.segments == (("class", 1), ("prompt", 2), ("token", 8))
    front = backbone(POINTS, {"tokens[1]": Insert(prompt(2, 16), at="front", keep_output=True)})
    assert front.layout.segments == (("prompt", 2), ("class", 1), ("token", 8))
    close(front.part("token"), features.part("token"))
    net, seen = backbone.module, []
    backbone(
        POINTS,
        {"tokens[1]": Insert(prompt(2, 16), keep_output=True), "tokens[2]": Add(lambda h, _: seen.append(h) or 0 * h)},
    )
    entering = slow_until(backbone, 1)
    x = torch.cat(
        [
            entering[:, :1] + net.cls_pos,
            prompt(2, 16).expand(9, -1, -1),
            entering[:, 1:] + net.pos_embed(group(POINTS, 8, 6)[0]),
        ],
        1,
    )
    close(seen[0], net.blocks.blocks[1](x))


def slow_until(backbone, layer: int) -> Tensor:
    """What enters block `layer`, positions not yet added."""
    seen = []
    backbone(POINTS, {f"tokens[{layer}]": Replace(lambda h, _: seen.append(h) or h)})
    return seen[0]


def test_prompts_of_several_tenants_share_a_batch():
    backbone, bank = tiny(), prompt(3, 4, 16)
    index = torch.tensor([0, 1, 2, 1, 0, 2, 2, 1, 0])
    mixed = backbone(POINTS, {"tokens[1]": Insert(bank, index=index)}).tokens
    for row in (0, 1, 5):
        alone = backbone(POINTS[row : row + 1], {"tokens[1]": Insert(bank[index[row]])}).tokens
        close(mixed[row : row + 1], alone)


def test_value_sites_change_what_they_name():
    backbone = tiny(class_token=True)
    plain, zero = backbone(POINTS), {"input": Replace(lambda h, layout: torch.zeros_like(h))}
    assert (backbone(POINTS, zero).tokens - plain.tokens).abs().max() > 1e-3
    for site in ("input", "tokens[1]", "attn_out[1]", "features"):
        same = backbone(POINTS, {site: Add(lambda h, layout: torch.zeros_like(h))})
        assert torch.equal(same.tokens, plain.tokens)
    doubled = backbone(POINTS, {"features": Add(lambda h, _: h)})
    close(doubled.tokens, 2 * plain.tokens)
    block = backbone.module.blocks.blocks[2]
    edits = {"mlp_in[2]": Add(lambda h, _: h), "attn_out[2]": Replace(lambda h, _: 0 * h)}
    entering = slow_until(backbone, 2)
    net = backbone.module
    p = torch.cat([net.cls_pos.expand(9, -1, -1), net.pos_embed(group(POINTS, 8, 6)[0])], 1)
    x = entering + p
    close(backbone(POINTS, edits).tokens, net.norm(x + block.mlp(block.norm2(x)) + x))


def test_keys_and_values_are_what_prompts_become():
    backbone, tokens = tiny(), prompt(4, 16)
    block = backbone.module.blocks.blocks[1]
    _, k, v = block.attn.split(block.norm1(tokens[None]))
    close(backbone(POINTS, {"kv[1]": KeyValue(k, v)}).tokens, backbone(POINTS, {"tokens[1]": Insert(tokens)}).tokens)


def test_outputs_and_attention_of_blocks_can_be_read():
    backbone = tiny(class_token=True)
    edits = {"tokens[1]": Insert(prompt(2, 16))}
    features = backbone(POINTS, edits, read=("token", "block[1]", "attention[1]"))
    assert features.layout.segments == (("token", 8),)
    assert features.extra["block[1]"].shape == (9, 2 + 1 + 8, 16)
    weights = features.extra["attention[1]"]
    assert weights.shape == (9, 2, 11, 11)
    torch.testing.assert_close(weights.sum(-1), torch.ones(9, 2, 11))
    close(features.tokens, backbone(POINTS, edits).part("token"))


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_resuming_from_packed_tokens_is_the_whole_pass(layer, class_token):
    backbone = tiny(class_token=class_token)
    edits = {"tokens[2]": Insert(prompt(3, 16))}
    packed = backbone.pack(POINTS, layer)
    assert packed.shape == (9, 8 + (class_token and layer > 0), 19)
    want = backbone(POINTS, edits)
    have = backbone(Resume(packed, layer), edits)
    assert torch.equal(have.tokens, want.tokens)
    assert have.layout == want.layout
    assert torch.equal(have.extra["centres"], want.extra["centres"])


def test_known_patch_indices_are_used():
    backbone = tiny()
    centres, neighbours = group_indices(POINTS, 8, 6)
    given = {"points": POINTS, "centres": centres.int(), "neighbours": neighbours.int()}
    assert torch.equal(backbone(given).tokens, backbone(POINTS).tokens)
    assert backbone.prepare(given) is given
    assert torch.equal(backbone.centres(backbone.prepare(POINTS)), group(POINTS, 8, 6)[0])
    given["neighbours"] = given["neighbours"].flip(0)
    assert not torch.equal(backbone(given).tokens, backbone(POINTS).tokens)


def test_the_order_of_points_does_not_matter_but_for_the_first():
    backbone = tiny()
    order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(47, generator=generator("points"))])
    close(backbone(POINTS[:, order]).tokens, backbone(POINTS).tokens, 1e-4)


def test_the_frozen_network_stays_in_eval_mode():
    backbone = tiny(drop_path=0.5)
    before = {name: tensor.clone() for name, tensor in backbone.module.state_dict().items()}
    assert torch.equal(backbone(POINTS).tokens, backbone(POINTS).tokens)
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.module.state_dict().items())
    assert not any(p.requires_grad for p in backbone.module.parameters())


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: tiny()(torch.zeros(2, 7, 3)), DataError, "7 points; need at least G=8"),
        (lambda: tiny(groups=4, group_size=9)(torch.zeros(2, 8, 3)), DataError, "8 points; need at least M=9"),
        (lambda: tiny()(torch.zeros(2, 48, 4)), DataError, r"reads points \(batch, point, 3\), not \(2, 48, 4\)"),
        (lambda: tiny()("cloud.ply"), DataError, "not str"),
        (lambda: tiny()(POINTS, {"tokens[3]": Insert(prompt(1, 16))}), UserError, "has no site 'tokens\\[3\\]'"),
        (
            lambda: tiny()(POINTS, {"tokens[0]": Insert(prompt(1, 15))}),
            UserError,
            r"\(1, 15\) do not fit tokens\[0\], width 16",
        ),
        (lambda: tiny()(POINTS, {"tokens[0]": Insert(prompt(2, 1, 16))}), UserError, "batch 9"),
        (lambda: tiny()(POINTS, read=("class",)), UserError, "has no segment 'class'"),
        (lambda: PointConfig(dim=10, heads=3), ValueError, "dim=10 is not a multiple of heads=3"),
    ],
)
def test_bad_input_is_refused(run, error, message):
    with pytest.raises(error, match=message):
        run()


def test_drop_path_drops_whole_branches_and_keeps_their_mean():
    from pt_pointcloud.networks.transformer import DropPath

    drop, x = DropPath(0.4).train(), torch.ones(4000, 2, 3)
    torch.manual_seed(0)
    out = drop(x)
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.6])
    assert (out.flatten(1).std(1) == 0).all()
    assert float(out.mean()) == pytest.approx(1, abs=0.05)
    assert torch.equal(drop.eval()(x), x)
    assert isinstance(drop, nn.Module)


def test_in_a_training_step_a_cloud_drops_branches_and_units_of_its_own():
    """Whatever else is in its batch: the same masks in one batch and in parts, others in every block, branch and step."""
    blocks, head = Blocks(16, 2, 3, 0.5).train(), build_head(16, 3)
    x, where = torch.randn(6, 8, 16), torch.zeros(6, 8, 16)
    keys = row_keys(torch.tensor([5, 2, 9, 4, 11, 30]), 0, "step", 1)
    for part in head:
        part.train(isinstance(part, Dropout))  # BatchNorm couples rows, dropout does not

    def run(rows, by=keys):
        with sampled_by(by[rows]), torch.no_grad():
            return blocks(x[rows], where[rows]), head(x[rows].mean(1))

    whole, parts = run(slice(None)), [run(slice(0, 1)), run(slice(1, 6))]
    for number in range(2):
        close(torch.cat([part[number] for part in parts]), whole[number])
        other = run(slice(None), row_keys(torch.tensor([5, 2, 9, 4, 11, 30]), 0, "step", 2))[number]
        assert not torch.allclose(other, whole[number])
    ones = torch.ones(6, 1, 1)
    with sampled_by(keys):
        drops = [block.drop_path(ones, branch) for block in blocks.blocks[1:] for branch in ("attn", "mlp")]
    assert len({tuple(drop.flatten().tolist()) for drop in drops}) == 4
