"""DVPT's segmentation variant against its card: counts, gates, loops, sharing."""

from __future__ import annotations

import copy

import pytest
import torch
from pt_core.errors import ConfigError
from pt_core.randomness import seeded
from pt_vision.adapters.mit import MitBackbone
from pt_vision.bottleneck import quick_gelu
from pt_vision.methods.segmentation.dvpt_seg import DVPTSeg, DVPTSegConfig
from pt_vision.networks.mit import build_mit, preprocessing
from pt_vision.networks.segformer import resize
from pt_vision.segmentation.task import Segmentation

from tests.vision.nets import close
from tests.vision.segmentation.common import DATA, WIDTH, images, make, seeded_make, tiny

BATCH = DATA["train"].collate([0, 1], [DATA["train"].sample(n, epoch=None, seed=0) for n in range(2)])


def method(**options) -> DVPTSeg:
    return seeded_make("dvpt_seg", **{"prompt_length": 4, **options})


def moved(**options) -> DVPTSeg:
    """Every tensor away from its initial value."""
    one = method(**options)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=rng))
    return one


def test_published_count():
    with torch.device("meta"):
        backbone = MitBackbone(build_mit("b4", decoder=True), "segformer:b4", preprocessing(1024))
        full = DVPTSeg(DVPTSegConfig(), {"encoder": backbone}, Segmentation(["ground", "polyp"]))
    parts = {
        "prompts": 113_920,
        "gates": 41,
        "bottlenecks": 129_266,
        "decoder_bottlenecks": 44_076,
        "classifier": 6_146,
    }
    counts = {
        name: sum(p.numel() for n, p in full.named_parameters() if n == name or n.startswith(f"{name}."))
        for name in parts
    }
    assert counts == parts
    assert full.parameter_count() == 293_449
    assert len(full.bottlenecks) == 2 + 4 + 14 + 2
    assert full.crop == 512


def test_it_starts_as_the_frozen_network():
    one = method()
    with torch.no_grad():
        frozen = tiny()(BATCH.inputs, read=["decoder"]).extra["decoder"]
        close(one(BATCH), resize(one.classifier(frozen), BATCH.inputs.shape[2:]), 1e-6)
        bare = moved(prompt_length=0)
        for module in [*bare.bottlenecks, *bare.decoder_bottlenecks]:
            module.gate.zero_()
        close(bare(BATCH), resize(bare.classifier(frozen), BATCH.inputs.shape[2:]), 1e-6)


def test_first_backward_reaches_the_gates_only():
    one = method()
    one.training_step(BATCH).loss.backward()
    modules = [*one.bottlenecks, *one.decoder_bottlenecks]
    assert all(float(module.gate.grad.abs()) > 0 for module in modules)
    assert not any(bool(p.grad.any()) for m in modules for p in (m.down.weight, m.up.weight))
    assert bool((one.gates.grad != 0).all())
    assert not any(bool(p.grad.any()) for p in one.prompts)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.sub_(parameter.grad)
            parameter.grad = None
    one.training_step(BATCH).loss.backward()
    assert all(bool(m.down.weight.grad.any() and m.up.weight.grad.any()) for m in modules)
    assert all(bool(p.grad.any()) for p in one.prompts)


def test_blocks_and_decoder_equal_loops():
    one = moved()
    backbone, encoder = one.backbone, one.backbone.module.encoder
    with torch.no_grad():
        have = one.logits(BATCH.inputs)
        x, maps, layer = encoder.patch_embed(BATCH.inputs), [], 0
        for stage in encoder.stages:
            x = x if stage.downsample is None else stage.downsample(maps[-1])
            rows, columns = x.shape[1:3]
            x = x.flatten(1, 2)
            for block in stage.blocks:
                x = x + block.attn(block.norm1(x), (rows, columns))
                added = torch.zeros_like(x)
                for n in range(len(x)):
                    for place, prompt in enumerate(one.prompts[layer]):
                        weights = (x[n] @ prompt * x.shape[-1] ** -0.5).softmax(0)
                        assert float(weights.sum()) == pytest.approx(1, abs=1e-5)
                        added[n, place] = one.gates[layer] * (weights @ x[n])
                x = x + added
                module = one.bottlenecks[one.group_of[layer]]
                branch = module.gate * module.up(quick_gelu(module.down(x)))
                x = x + block.mlp(block.norm2(x), (rows, columns)) + branch
                layer += 1
            x = stage.norm(x)
            maps.append(x.transpose(1, 2).unflatten(2, (rows, columns)))
        parts = []
        for found, linear, module in zip(maps, backbone.decoder.linears, one.decoder_bottlenecks, strict=True):
            tokens = found.flatten(2).transpose(1, 2)
            own = linear(tokens) + module.gate * module.up(quick_gelu(module.down(tokens)))
            parts.append(resize(own.transpose(1, 2).unflatten(2, found.shape[2:]), maps[0].shape[2:]))
        want = resize(one.classifier(torch.cat(parts[::-1], 1)), BATCH.inputs.shape[2:])
    close(have, want, 1e-5)


def test_two_images_get_different_prompts():
    one = moved()
    x = torch.randn(2, 16, 8)
    added = one.add_to_first_tokens(0, x, None)
    assert not torch.allclose(added[0, :4], added[1, :4])
    assert not added[:, 4:].any()
    order = torch.randperm(16)
    close(one.add_to_first_tokens(0, x[:, order], None)[:, :4], added[:, :4], 1e-5)


def test_consecutive_blocks_of_a_stage_share():
    shared, single = method(), method(group=1)
    assert shared.group_of == [0, 1, 1, 2, 3]
    assert single.group_of == [0, 1, 2, 3, 4]
    # The gradient of a shared weight is the sum over its layers.
    apart = moved(group=1)
    together = moved()
    with torch.no_grad():
        for name, parameter in together.named_parameters():
            if not name.startswith("bottlenecks"):
                parameter.copy_(dict(apart.named_parameters())[name])
        for layer, group in enumerate(together.group_of):
            apart.bottlenecks[layer].load_state_dict(copy.deepcopy(together.bottlenecks[group].state_dict()))
    for one in (apart, together):
        one.training_step(BATCH).loss.backward()
    total = apart.bottlenecks[1].down.weight.grad + apart.bottlenecks[2].down.weight.grad
    close(together.bottlenecks[1].down.weight.grad, total, 1e-4)


def test_fused_input_reads_the_frozen_fusion():
    one = method(classifier_input="fused")
    assert one.classifier.in_channels == WIDTH
    with torch.no_grad():
        fused = tiny()(BATCH.inputs, read=["fused"]).extra["fused"]
        close(one(BATCH), resize(one.classifier(fused), BATCH.inputs.shape[2:]), 1e-6)


def test_larger_images_are_covered_by_windows():
    one = moved().eval()
    wide = images(1, 64).repeat(1, 1, 1, 2)
    from pt_core import Batch

    with torch.no_grad():
        assert one(Batch(wide, None, torch.zeros(1), ["a"])).shape == (1, 3, 64, 128)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_length": 10}, "prompt_length=10 exceeds the 4 tokens of stage 4 at crops of 64"),
        ({"latent": 0}, "latent=0"),
        ({"group": 0}, "group=0"),
        ({"dice_weight": 2}, "dice_weight=2"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigError, match=message):
        make("dvpt_seg", **options)


def test_seeds_draw_other_prompts():
    with seeded(1, "init"):
        other = make("dvpt_seg", prompt_length=4)
    assert not torch.equal(other.prompts[0], method().prompts[0])
