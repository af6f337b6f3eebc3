"""IDPT does what its paper says: the acceptance checks of the method, one by one, and its options."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pt_core import Batch
from pt_core.data import generator
from pt_core.errors import ConfigError, DataError
from pt_core.run.declare.options import TrainOptions, build_all
from pt_core.run.tasks.classification import Classification
from pt_core.testing._support import train
from pt_pointcloud.methods.full import FullFineTuning
from pt_pointcloud.methods.idpt import IDPT, IDPTConfig
from pt_pointcloud.methods.linear import LinearConfig, LinearProbe
from pt_pointcloud.methods.vpt import VPT
from pt_pointcloud.networks.backbone import PointBackbone
from pt_pointcloud.networks.prompts import DGCNN
from pt_pointcloud.networks.transformer import PointConfig, PointTransformer
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from tests.pointcloud.common import OPTIONS, batch_of, bound, case, close, seeded_make, tiny

BATCH = batch_of()


def method(**options) -> IDPT:
    return seeded_make(IDPT, neighbours=5, **options).eval()


def cached(one, batch: Batch) -> Batch:
    return Batch(None, batch.target, batch.index, batch.ids, {"frozen": one.frozen_part(batch)})


# ---- 1. counts ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> PointBackbone:
    with torch.device("meta"):
        return PointBackbone(PointTransformer(PointConfig(groups=128, points=2048)), "published")


@pytest.mark.parametrize(
    ("cls", "classes", "count"),
    [(IDPT, 15, 1_696_783), (IDPT, 40, 1_703_208), (VPT, 15, 360_463), (FullFineTuning, 15, 22_093_327)],
)
def test_counts_of_the_published_network(published, cls, classes, count):
    task = Classification([f"class {n}" for n in range(classes)])
    with torch.device("meta"):
        made = cls(cls.Config(), {"backbone": published}, task)
    assert made.parameter_count() == count
    if cls is IDPT:
        assert sum(p.numel() for p in made.prompt_module.parameters()) == 1_330_176
        assert sum(p.numel() for p in made.own.parameters()) == 768
        assert classes != 15 or sum(p.numel() for p in made.head.parameters()) == 365_839


@pytest.mark.parametrize(("head_input", "width"), [("all", 3), ("prompt", 1), ("prompt_class", 2), ("class_points", 2)])
def test_the_head_reads_what_it_is_told(head_input, width):
    one = method(head_input=head_input)
    assert one.head[0].in_features == width * 16
    f = one.features(BATCH)
    parts = {
        "all": [f.part("class")[:, 0], f.part("prompt")[:, 0], f.part("token").amax(1)],
        "prompt": [f.part("prompt")[:, 0]],
    }
    parts["prompt_class"] = parts["all"][:2]
    parts["class_points"] = [parts["all"][0], parts["all"][2]]
    assert torch.equal(one(BATCH), one.head(torch.cat(parts[head_input], -1)))


# ---- 2. instance-wise, and independent of order --------------------------------------------------------------------------------


def prompts(one: IDPT, points: Tensor) -> Tensor:
    seen: list[Tensor] = []
    compute = one.compute_prompt
    one.compute_prompt = lambda *a: seen.append(compute(*a)) or seen[-1]
    try:
        one(Batch(points, None, torch.arange(len(points)), [""] * len(points)))
    finally:
        del one.compute_prompt
    return seen[0]


def test_two_clouds_have_two_prompts():
    p = prompts(method(), BATCH.inputs["points"])
    assert p.shape == (9, 1, 16)
    assert (p[0] - p[1]).abs().max() > 1e-2


def test_the_order_of_points_and_patches_does_not_matter():
    one, points = method(), BATCH.inputs["points"]
    order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(47, generator=generator("order"))])
    close(prompts(one, points[:, order]), prompts(one, points), 1e-4)
    rows = torch.randperm(8, generator=generator("patches"))
    shuffled = {
        **BATCH.inputs,
        "centres": BATCH.inputs["centres"][:, rows],
        "neighbours": BATCH.inputs["neighbours"][:, rows],
    }
    close(one(Batch(shuffled, None, BATCH.index, BATCH.ids)), one(BATCH), 1e-4)


# ---- 3. tokens per block ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_tokens_per_block_and_the_plain_network_below_the_prompt(layer):
    one = method(prompt_layer=layer)
    outputs: list[Tensor] = []
    blocks = one.backbone.module.blocks.blocks
    hooks = [block.mlp.register_forward_hook(lambda m, i, o: outputs.append(o)) for block in blocks]
    one(BATCH)
    assert [out.shape[1] for out in outputs] == [9] * layer + [10] * (3 - layer)
    prompted = list(outputs)
    outputs.clear()
    one.backbone(BATCH.inputs, weights=one.own)
    for hook in hooks:
        hook.remove()
    for block in range(layer):
        assert torch.equal(prompted[block], outputs[block])


def test_it_is_the_paper_written_out():
    """Token order, positions, and the prompt's own position in the blocks behind it."""
    one = method(prompt_layer=1, train_prompt_position=True)
    net, own = one.backbone.module, one.own.tensors()
    inputs = one.backbone.prepare(BATCH.inputs)
    x = one.backbone.pack(inputs, 0)[..., :-3]
    x = torch.cat([own["cls_token"].expand(9, -1, -1), x], 1)
    pos = torch.cat([own["cls_pos"].expand(9, -1, -1), one.backbone.positions(inputs)], 1)
    x = net.blocks.blocks[0](x + pos)
    prompt = one.prompt_module(x[:, -8:])
    x = torch.cat([x[:, :1], prompt, x[:, 1:]], 1)
    pos = torch.cat([pos[:, :1], one.prompt_position.expand(9, -1, -1), pos[:, 1:]], 1)
    for block in net.blocks.blocks[1:]:
        x = block(x + pos)
    x = net.norm(x)
    close(one(BATCH), one.head(torch.cat([x[:, 0], x[:, 1], x[:, 2:].amax(1)], -1)))


# ---- 5. a constant prompt is static prompt tuning at the last layer -----------------------------------------------------------------


def test_a_constant_prompt_reduces_it_to_a_static_one():
    one = method(head_input="class_points")

    class Constant(nn.Module):
        def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
            return self.token.expand(len(tokens), -1, -1)

    one.prompt_module = Constant()
    one.prompt_module.token = nn.Parameter(torch.randn(1, 1, 16, generator=generator("token")))
    static = seeded_make(VPT, mode="last", prompt_length=1).eval()
    with torch.no_grad():
        static.prompts.copy_(one.prompt_module.token)
        static.positions.copy_(one.prompt_position)
        static.own.load_state_dict(one.own.state_dict())
        static.head.load_state_dict(one.head.state_dict())
    close(one(BATCH), static(BATCH))


# ---- 8. frozen means frozen --------------------------------------------------------------------------------------------------------


def test_only_the_listed_tensors_change(tmp_path):
    one = seeded_make(IDPT, neighbours=5)
    names = {name.partition(".")[0] for name, _ in one.named_parameters()}
    assert names == {"own", "prompt_module", "head"}
    before = {name: tensor.clone() for name, tensor in one.backbone.module.state_dict().items()}
    position = one.prompt_position.clone()
    train(case(IDPT, 0, neighbours=5), tmp_path / "run", one)
    assert all(torch.equal(before[name], tensor) for name, tensor in one.backbone.module.state_dict().items())
    assert torch.equal(one.prompt_position, position)


def kept_bytes(one: IDPT, batch: Batch) -> tuple[int, dict[str, Tensor]]:
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    one.train()
    torch.manual_seed(0)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = one.training_step(batch).loss
    loss.backward()
    return total, {name: p.grad.clone() for name, p in one.named_parameters()}


def test_a_fixed_class_token_keeps_nothing_of_the_blocks_below_and_the_same_gradients():
    trained, fixed = seeded_make(IDPT, neighbours=5), seeded_make(IDPT, neighbours=5, train_class_token=False)
    values = {**trained.state_dict()}
    fixed.load_state_dict(values)
    batch = batch_of(rows=range(6))
    seen: list[Tensor] = []
    blocks = fixed.backbone.module.blocks.blocks
    hooks = [blocks[n].mlp.register_forward_hook(lambda m, i, o: seen.append(o)) for n in (0, 1)]
    more, wanted = kept_bytes(trained, batch)
    less, found = kept_bytes(fixed, batch)
    for hook in hooks:
        hook.remove()
    assert [tensor.requires_grad for tensor in seen] == [False, False]
    assert less < more
    floor = 1e-3 * max(float(g.abs().max()) for g in wanted.values())
    for name, gradient in found.items():
        scale = max(float(wanted[name].abs().max()), floor)
        assert float((gradient - wanted[name]).abs().max()) <= 1e-4 * scale, name
    assert set(wanted) - set(found) == {"own.cls_token", "own.cls_pos"}


@pytest.mark.parametrize("options", [{}, {"train_class_token": False}, {"train_class_token": False, "prompt_layer": 1}])
def test_cached_tokens_replace_the_cloud(options):
    one = method(**options)
    assert torch.equal(one(cached(one, BATCH)), one(BATCH))
    assert one.frozen_part(BATCH).shape[1] == (9 if options else 8)


def test_the_key_of_the_cache_names_the_class_token():
    one, other = method(train_class_token=False), seeded_make(IDPT, seed=1, train_class_token=False)
    assert one.frozen_key() != other.frozen_key()
    assert one.frozen_key() != method(train_class_token=False, prompt_layer=1).frozen_key()
    assert method().frozen_key() == "embedding"
    assert method(backbone_mode="published").frozen_key() is None
    assert method(clip="published").frozen_key() is None


def test_a_pretrained_class_token_is_the_start():
    one = seeded_make(IDPT, class_token=True, neighbours=5)
    assert torch.equal(one.own.cls_token, one.backbone.module.cls_token)
    drawn = seeded_make(IDPT, neighbours=5).own.cls_token.detach()
    assert 0 < float(drawn.abs().max()) < 0.1


# ---- published habits --------------------------------------------------------------------------------------------------------------


def test_published_mode_moves_statistics_of_its_own_copy(tmp_path):
    one = seeded_make(IDPT, neighbours=5, backbone_mode="published")
    before = {name: tensor.clone() for name, tensor in one.backbone.module.state_dict().items()}
    train(case(IDPT, 0, neighbours=5, backbone_mode="published"), tmp_path / "run", one)
    moved = [
        name for name, tensor in one.own.tensors().items() if name in before and not torch.equal(before[name], tensor)
    ]
    assert any(name.endswith("running_mean") for name in moved)
    assert all(torch.equal(before[name], tensor) for name, tensor in one.backbone.module.state_dict().items())


def test_published_clipping_scales_by_the_norm_of_all_gradients():
    plain, clipped = (seeded_make(IDPT, neighbours=5, clip=clip).train() for clip in ("tuned", "published"))
    gradients = []
    for one in (plain, clipped):
        torch.manual_seed(0)
        one.training_step(BATCH).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in one.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5)
    frozen = [leaf.grad for leaf in clipped.own.leaves.values() if leaf.grad is not None]
    assert len(frozen) > 30
    count = clipped.own.count
    assert count == 9
    whole = torch.stack([*(g.norm() / count for g in frozen), *(g.norm() for g in gradients[1].values())]).norm()
    tuned = torch.stack([g.norm() for g in gradients[1].values()]).norm()
    limit = float(tuned)  # the tuned norm alone would not be clipped
    clipped.own.scale(list(clipped.parameters()), limit)
    factor = limit / (float(whole) + 1e-6)
    assert factor < 1
    for name, p in clipped.named_parameters():
        torch.testing.assert_close(p.grad, gradients[1][name] * factor)
    assert clipped.own.leaves == {}


# ---- attention, bad input ------------------------------------------------------------------------------------------------------------


def test_attention_of_the_prompt_over_the_patches():
    weights, centres = method().attention(BATCH)
    assert weights.shape == (9, 8)
    assert centres.shape == (9, 8, 3)
    assert ((weights > 0) & (weights < 1)).all()


def test_fewer_tokens_than_neighbours_warn_and_run():
    with pytest.warns(UserWarning, match="k=20 neighbours among 8 tokens"):
        seeded_make(IDPT).eval()(BATCH)


def context(samples: int, **options) -> SimpleNamespace:
    return SimpleNamespace(data={"train": bound(samples, 1)}, options=TrainOptions(**options))


@pytest.mark.parametrize(
    ("samples", "options", "works"),
    [
        (21, {"batch_size": 20}, "--batch-size 21"),
        (21, {"batch_size": 1}, "--batch-size 3"),
        (9, {"batch_size": 4}, "--batch-size 5"),
    ],
)
def test_a_batch_of_one_is_refused_before_training(samples, options, works):
    with pytest.raises(ConfigError, match=f"BatchNorm cannot normalise; {works} works"):
        next(iter(seeded_make(IDPT).stages(context(samples, **options))))


def test_a_batch_of_one_cannot_train_but_can_be_predicted():
    one, single = method(), batch_of(rows=[0])
    assert one(single).shape == (1, 3)
    one.train()
    with pytest.raises(DataError, match="batch of one cloud cannot be normalised"):
        one(single)


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: method(prompt_layer=3), ConfigError, r"prompt_layer=3 does not exist: 'tiny:0' has blocks 0\.\.2"),
        (lambda: build_all({"c": IDPTConfig}, {"prompt_layer": -1}), ConfigError, "prompt_layer=-1"),
        (lambda: build_all({"c": IDPTConfig}, {"prompt_module": "gcn"}), ConfigError, "prompt_module='gcn'"),
        (lambda: build_all({"c": IDPTConfig}, {"neighbors": 20}), ConfigError, "neighbors.*did you mean 'neighbours'"),
        (lambda: build_all({"c": LinearConfig}, {"pool": "cls"}), ConfigError, "pool='cls'"),
        (lambda: seeded_make(LinearProbe, pool="class"), ConfigError, "pretrained without a class token"),
        (
            lambda: IDPT(IDPTConfig(), {"backbone": tiny()}, SimpleNamespace(unit="point", name="parts", outputs=6)),
            ConfigError,
            "choose another method",
        ),
    ],
)
def test_bad_input_is_refused(run, error, message):
    with pytest.raises(error, match=message):
        run()


@pytest.mark.parametrize("module", ["dgcnn", "dgcnn1", "dgcnn2", "mlp", "transformer"])
def test_every_prompt_module_trains(module, tmp_path):
    one = seeded_make(IDPT, neighbours=5, prompt_module=module)
    before = [p.detach().clone() for p in one.prompt_module.parameters()]
    train(case(IDPT, 0), tmp_path / "run", one, options=TrainOptions(**{**OPTIONS.__dict__, "steps": 2}))
    assert any(not torch.equal(a, b) for a, b in zip(before, one.prompt_module.parameters(), strict=True))
    assert isinstance(one.prompt_module, DGCNN) is module.startswith("dgcnn")
