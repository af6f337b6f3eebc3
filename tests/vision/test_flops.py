"""Operations are deterministic, so the promises of cost are tests: counts equal a pencil's, and stay below their bounds.

Everything is compared like with like: all tokens of the last block are computed on both sides, for the frozen forward
and for the method. Pruning of the last block, which a head on the class token allows, has its own tests.
"""

from __future__ import annotations

import pytest
import torch
from pt_core import Batch
from pt_core.run.use.budget import budget
from pt_vision.adapters.base import VisionBackbone
from pt_vision.methods.classification.dvpt import DVPTConfig
from pt_vision.methods.classification.vpt import VPT, VPTConfig

from benchmarks import flops
from benchmarks.flops import CLASS_ONLY, PROMPTS, Sizes, count, dvpt, vpt, vpt_cached, vpt_concatenated

BATCHES = [1, 4, 16]


@pytest.fixture(scope="module")
def vit() -> VisionBackbone:
    """ViT-B/16 at 224 pixels on meta tensors."""
    return flops.backbone()


@pytest.fixture(scope="module")
def sizes(vit: VisionBackbone) -> Sizes:
    return Sizes.of(vit)


@pytest.mark.parametrize("batch", BATCHES)
def test_the_frozen_forward_is_what_a_pencil_gives(vit: VisionBackbone, sizes: Sizes, batch: int) -> None:
    assert count(vit, batch) == sizes.frozen(batch)
    # 17.6 G multiply-adds per image: the number usually printed for this network.
    assert sizes.frozen(1) / 2e9 == pytest.approx(17.6, abs=0.05)


@pytest.mark.parametrize(("batch", "bound"), [(1, 1.11), (4, 1.05), (16, 1.05)])
def test_vpt_deep_costs_keys_and_values_once_per_batch(
    vit: VisionBackbone, sizes: Sizes, batch: int, bound: float
) -> None:
    have = vpt(vit, batch)
    assert have == sizes.frozen(batch) + sizes.vpt(batch, PROMPTS, 1)
    assert have <= bound * sizes.frozen(batch)


@pytest.mark.parametrize("batch", BATCHES)
def test_prompt_dropout_costs_keys_and_values_per_row(vit: VisionBackbone, sizes: Sizes, batch: int) -> None:
    have = vpt(vit, batch, dropout=0.1)
    assert have == sizes.frozen(batch) + sizes.vpt(batch, PROMPTS, batch)
    assert have <= 1.11 * sizes.frozen(batch)


@pytest.mark.parametrize("batch", BATCHES)
def test_cached_prompts_cost_longer_attention_only(vit: VisionBackbone, sizes: Sizes, batch: int) -> None:
    have = vpt_cached(vit, batch)
    assert have == sizes.frozen(batch) + sizes.vpt(batch, PROMPTS, 0)
    assert have <= 1.03 * sizes.frozen(batch)


@pytest.mark.parametrize("batch", [1, 4])
def test_concatenation_costs_half_as_much_again(vit: VisionBackbone, sizes: Sizes, batch: int) -> None:
    have = vpt_concatenated(vit, batch)
    assert have == sizes.frozen(batch) + sizes.concatenated(batch, PROMPTS)
    assert have / sizes.frozen(batch) == pytest.approx(1.535, abs=0.001)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_pruning_saves_the_last_block_of_all_but_the_class_token(
    vit: VisionBackbone, sizes: Sizes, batch: int, dropout: float
) -> None:
    assert count(vit, batch, read=CLASS_ONLY) == sizes.frozen(batch) - sizes.pruned(batch)
    saved = vpt(vit, batch, dropout) - vpt(vit, batch, dropout, CLASS_ONLY)
    assert saved == sizes.pruned(batch, PROMPTS) > 0
    assert vpt_cached(vit, batch) - vpt_cached(vit, batch, CLASS_ONLY) == sizes.pruned(batch, PROMPTS)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(
    ("config", "prompts", "latent"),
    [
        (DVPTConfig(), 50, 20),
        (DVPTConfig(prompt_length=10, latent=8, group=2), 10, 8),
        (DVPTConfig(variant="code_vit"), 50, 20),
    ],
    ids=["defaults", "small", "code_vit"],
)
def test_dvpt_costs_its_formula(
    vit: VisionBackbone, sizes: Sizes, config: DVPTConfig, prompts: int, latent: int, batch: int
) -> None:
    added = dvpt(vit, batch, config) - count(vit, batch)
    assert added == sizes.dvpt(batch, prompts, latent, config.variant == "paper")


def test_dvpt_on_swin_costs_its_formula() -> None:
    """code_swin: in block l with T tokens of width d, a bottleneck 4 T d r and the prompts' attention 4 p T d."""
    swin = flops.backbone("swin_tiny_patch4_window7_224")
    prompts, latent, batch = 10, 10, 2
    blocks = [(swin.token_count(layer), swin.width(layer)) for layer in range(swin.depth)]
    assert len({width for _, width in blocks}) == 4
    added = dvpt(swin, batch, DVPTConfig(variant="code_swin")) - count(swin, batch)
    assert added == batch * sum(4 * tokens * width * (latent + prompts) for tokens, width in blocks)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_method_itself_takes_these_paths(vit: VisionBackbone, sizes: Sizes, dropout: float) -> None:
    """`predict_step` and `training_step` of VPT: the paths above, the last block pruned, and the head."""
    batch = 2
    method = flops.build(VPT, VPTConfig(prompt_length=PROMPTS, prompt_dropout=dropout), vit)
    images = torch.zeros(batch, 3, *vit.image_size, device="meta")
    result = budget(method, Batch(images, torch.zeros(batch, dtype=torch.long), torch.arange(batch), ["a", "b"]))
    head = 2 * batch * vit.dim * flops.CLASSES
    pruned = sizes.frozen(batch) - sizes.pruned(batch, PROMPTS)
    assert result.forward_flops == pruned + sizes.vpt(batch, PROMPTS, 0) + head
    assert result.forward_flops < sizes.frozen(batch)
    forward = pruned + sizes.vpt(batch, PROMPTS, batch if dropout else 1) + head
    # Backward: attention twice; every other product once more, for the gradient of its input, the head's twice. None for
    # the patch embedding, nor in block 0 for queries, keys and values of own tokens, which no trained tensor precedes.
    attention = sizes.blocks * batch * 4 * sizes.tokens * (sizes.tokens + PROMPTS) * sizes.width
    attention -= batch * (sizes.tokens - 1) * 4 * (sizes.tokens + PROMPTS) * sizes.width
    patches = batch * 2 * sizes.patches * sizes.width * sizes.values
    first = batch * 6 * sizes.tokens * sizes.width**2
    assert result.step_flops == 2 * forward + attention + head - patches - first
