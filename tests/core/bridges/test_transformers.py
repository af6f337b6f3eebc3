"""The bridge to causal language models: shared prefixes, packed positions, slots, checkpointing and generation, on tiny models of five
families that the bridge itself does not know by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

from pt_core.bridges import transformers as bridge  # noqa: E402
from pt_core.errors import UserError  # noqa: E402
from torch import Tensor  # noqa: E402

SMALL = {"vocab_size": 64, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
WIDE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def build(kind: str) -> Any:
    """A tiny random model in eval mode, frozen."""
    t = transformers
    makers: dict[str, Any] = {
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**SMALL, **WIDE, num_key_value_heads=2)),
        "qwen": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**SMALL, **WIDE, num_key_value_heads=2)),
        "mistral": lambda: t.MistralForCausalLM(
            t.MistralConfig(**SMALL, **WIDE, num_key_value_heads=2, sliding_window=32)
        ),
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(**SMALL, n_embd=32, n_layer=3, n_head=4, n_positions=64)),
        "bloom": lambda: t.BloomForCausalLM(t.BloomConfig(**SMALL, hidden_size=32, n_layer=3, n_head=4)),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = makers[kind]()
    for parameter in model.parameters():  # the library's initial values are too small to tell a wrong mask
        if parameter.ndim > 1:
            parameter.data.mul_(8.0)
    return model.requires_grad_(False).eval()


KINDS = ("llama", "qwen", "mistral", "gpt2", "bloom")
MODELS: dict[str, Any] = {}


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    return MODELS.setdefault(request.param, build(request.param))


def close(have: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(have, want, rtol=0, atol=tolerance * float(want.abs().max()))


def ragged(left: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
    """(ids, mask, rows without padding)."""
    rows = [torch.tensor(row) for row in ([3, 4, 5, 6, 7], [8, 9], [10, 11, 12])]
    ids, mask = torch.zeros(3, 5, dtype=torch.long), torch.zeros(3, 5, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(5 - len(row), 5) if left else slice(0, len(row))
        ids[number, place], mask[number, place] = row, 1
    return ids, mask, rows


def prompt(length: int = 4, seed: int = 1) -> Tensor:
    return torch.randn(1, length, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("left", [True, False])
def test_a_ragged_batch_behind_a_shared_prefix_equals_its_rows_one_by_one(model, left):
    ids, mask, rows = ragged(left)
    cache = bridge.run_prefix(model, prompt())
    logits = bridge.run(model, bridge.embed(model, ids), mask, prefix=cache).logits
    for number, row in enumerate(rows):
        whole = torch.cat([prompt(), bridge.embed(model, row[None])], 1)
        want = model(inputs_embeds=whole, attention_mask=torch.ones(1, whole.shape[1], dtype=torch.long)).logits[0, 4:]
        close(logits[number][mask[number].bool()], want)


def test_the_prompt_of_real_tokens_is_the_concatenation_of_the_ids(model):
    front, own = torch.tensor([[20, 21, 22]]), torch.tensor([[3, 4, 5, 6]])
    cache = bridge.run_prefix(model, bridge.embed(model, front))
    have = bridge.run(model, bridge.embed(model, own), torch.ones_like(own), prefix=cache).logits
    close(have, model(torch.cat([front, own], 1)).logits[:, 3:])


def test_gradients_of_the_shared_prefix_equal_those_of_a_prompt_per_row(model):
    ids, mask, _ = ragged(True)
    weight = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(2)) * mask[..., None]
    gradients = []
    for shared in (True, False):
        p = prompt().requires_grad_()
        cache = bridge.run_prefix(model, p if shared else p.expand(3, -1, -1))
        (bridge.run(model, bridge.embed(model, ids), mask, prefix=cache).logits * weight).sum().backward()
        gradients.append(p.grad)
    close(gradients[0], gradients[1])


def test_a_prefix_serves_many_calls_and_stays_as_it_is(model):
    ids, mask, _ = ragged(True)
    cache = bridge.run_prefix(model, prompt())
    before = [layer.keys.clone() for layer in cache.layers]
    first = bridge.run(model, bridge.embed(model, ids), mask, prefix=cache).logits
    second = bridge.run(model, bridge.embed(model, ids), mask, prefix=cache).logits
    assert torch.equal(first, second)
    assert cache.get_seq_length() == 4
    assert all(torch.equal(layer.keys, keys) for layer, keys in zip(cache.layers, before, strict=True))


def test_keys_and_values_go_through_the_cache_and_back(model):
    pairs = bridge.pairs_of(bridge.run_prefix(model, prompt()))
    assert pairs is not None
    assert len(pairs) == 3
    again = bridge.pairs_of(bridge.cache_of(model, pairs))
    for (k, v), (k2, v2) in zip(pairs, again, strict=True):
        assert torch.equal(k, k2)
        assert torch.equal(v, v2)


def test_prefixes_of_several_lengths_in_one_batch(model):
    ids, mask, rows = ragged(True)
    prompts = [prompt(length, seed) for seed, length in enumerate((4, 1, 3))]
    longest, pad = 4, [0, 3, 1]
    filled = []
    for layer in range(3):
        pairs = [bridge.pairs_of(bridge.run_prefix(model, p))[layer] for p in prompts]
        filled.append(
            tuple(
                torch.cat(
                    [torch.nn.functional.pad(pair[part], (0, 0, n, 0)) for pair, n in zip(pairs, pad, strict=True)]
                )
                for part in (0, 1)
            )
        )
    before = torch.tensor([[0] * n + [1] * (longest - n) for n in pad])
    have = bridge.run(
        model, bridge.embed(model, ids), mask, prefix=bridge.cache_of(model, filled), prefix_mask=before
    ).logits
    for number, row in enumerate(rows):
        cache = bridge.run_prefix(model, prompts[number])
        want = bridge.run(
            model, bridge.embed(model, row[None]), torch.ones(1, len(row), dtype=torch.long), prefix=cache
        ).logits[0]
        close(have[number][mask[number].bool()], want)


def test_slots_are_replaced_before_every_block_and_dropped(model):
    """Against a loop over the blocks' own modules is not possible for five families; what every family shares is checked: slots reach every
    block once, text positions start behind them, and constant slots at block 0 only differ from slots in all blocks."""
    ids, mask, rows = ragged(True)
    seen: list[tuple[int, int]] = []

    def fn(layer: int, hidden: Tensor) -> Tensor:
        seen.append((layer, hidden.shape[1]))
        return prompt(2, 10 + layer)

    have = bridge.run(model, bridge.embed(model, ids), mask, slots=(2, fn)).logits
    assert seen == [(0, 5), (1, 5), (2, 5)]
    for number, row in enumerate(rows):
        alone = bridge.run(
            model, bridge.embed(model, row[None]), torch.ones(1, len(row), dtype=torch.long), slots=(2, fn)
        ).logits[0]
        close(have[number][mask[number].bool()], alone)


@pytest.mark.parametrize("training", [False, True])
def test_checkpointing_recomputes_every_block_once_and_changes_nothing(model, training):
    ids, mask, _ = ragged(True)
    attention = [
        next(m for name, m in block.named_modules() if name.endswith(("attn", "attention")))
        for block in bridge.blocks(model)
    ]
    inner: list[int] = []
    handles = [
        module.register_forward_pre_hook(lambda m, a, n=n: inner.append(n)) for n, module in enumerate(attention)
    ]
    results = []
    model.train(training)
    try:
        for recompute in (False, True):
            p = prompt().requires_grad_()
            with torch.random.fork_rng():
                torch.manual_seed(0)  # dropout in train mode
                cache = bridge.run_prefix(model, p)
                inner.clear()
                logits = bridge.run(model, bridge.embed(model, ids), mask, prefix=cache, recompute=recompute).logits
            forward = len(inner)
            (logits * mask[..., None]).sum().backward()
            results.append((logits.detach(), p.grad, forward, len(inner)))
    finally:
        model.eval()
        for handle in handles:
            handle.remove()
    plain, again = results
    assert plain[2:] == (3, 3)
    assert again[2:] == (3, 6), "every block runs once forward and once more in the backward pass"
    close(again[0], plain[0])
    close(again[1], plain[1])
    assert all("forward" not in block.__dict__ for block in bridge.blocks(model))


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"num_return_sequences": 2, "num_beams": 2}], ids=["greedy", "beam", "two"]
)
def test_generation_behind_a_cache_equals_generation_from_embeddings(model, options):
    ids, mask, rows = ragged(True)
    cache = bridge.run_prefix(model, prompt())
    text = bridge.run(model, bridge.embed(model, ids), mask, prefix=cache, use_cache=True, keep=1)
    have = bridge.generate(model, ids, text.cache, text.mask, 6, {"do_sample": False, **options})
    copies = options.get("num_return_sequences", 1)
    assert have.shape == (3 * copies, 6)
    for number, row in enumerate(rows):
        whole = torch.cat([prompt(), bridge.embed(model, row[None])], 1)
        want = model.generate(
            inputs_embeds=whole, attention_mask=torch.ones(1, whole.shape[1], dtype=torch.long), max_new_tokens=6, do_sample=False,
            pad_token_id=0, **options,
        )  # fmt: skip
        assert have[number * copies : (number + 1) * copies].tolist() == want.tolist()


def test_steps_with_a_cache_equal_full_forward_passes(model):
    ids, mask, rows = ragged(True)
    cache = bridge.run_prefix(model, prompt())
    text = bridge.run(model, bridge.embed(model, ids), mask, prefix=cache, use_cache=True, keep=1)
    logits, state, seen = text.logits, text.cache, text.mask
    chosen = [list(row.tolist()) for row in rows]
    for _ in range(3):
        tokens = logits[:, -1].argmax(-1)
        for number, token in enumerate(tokens.tolist()):
            whole = torch.cat([prompt(), bridge.embed(model, torch.tensor([chosen[number]]))], 1)
            full = model(inputs_embeds=whole, attention_mask=torch.ones(1, whole.shape[1], dtype=torch.long)).logits[
                0, -1
            ]
            close(logits[number, -1], full)
            chosen[number].append(token)
        logits, state, seen = bridge.step(model, tokens[:, None], state, seen)


def test_a_model_without_a_list_of_blocks_is_refused():
    class Fused(torch.nn.Module):
        config = transformers.LlamaConfig(**SMALL, **WIDE)

    with pytest.raises(UserError, match="no list of 3 blocks"):
        bridge.blocks(Fused())


def test_lengths_beyond_the_context_window_are_named():
    with pytest.raises(
        UserError, match="prompt of 60 tokens and text of 10 tokens exceed the context window of 64.*at most 54"
    ):
        bridge.check_length(60, 10, 64)
    bridge.check_length(54, 10, 64)


def test_sizes_come_from_the_configuration():
    found = bridge.sizes(MODELS.setdefault("mistral", build("mistral")))
    assert (found.dim, found.depth, found.heads, found.kv_heads, found.head_dim, found.context, found.window) == (
        32,
        3,
        4,
        2,
        8,
        64,
        32,
    )


def test_the_depth_of_an_encoder_decoder_is_its_decoder_s() -> None:
    config = transformers.T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=3, num_heads=4
    )
    found = bridge.sizes(transformers.T5ForConditionalGeneration(config))
    assert (found.depth, found.heads, found.kv_heads, found.head_dim) == (3, 4, 4, 8)


def test_positions_of_a_vision_tower_are_no_context_of_the_text() -> None:
    t = transformers
    config = t.LlavaConfig(
        text_config=t.LlamaConfig(**SMALL, **WIDE, num_key_value_heads=2),
        vision_config=t.CLIPVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4, projection_dim=32
        ),
        image_token_index=3,
    )  # fmt: skip
    model = t.LlavaForConditionalGeneration(config)
    assert bridge.position_limit(model) == 5
    assert bridge.sizes(model).context == 64
