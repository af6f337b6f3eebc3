"""Prompt tuning, prefix tuning and P-tuning against the model itself, on several families."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pt_core import Batch
from pt_core.errors import ArtifactError, ConfigError, UserError
from pt_core.kernels import reference_kernels
from pt_core.kernels.flops import flop_counter
from pt_core.randomness import keyed
from pt_core.run.declare.options import build_all
from pt_language.data.templates import Encoder
from pt_language.methods.full import FullFineTuning
from pt_language.methods.iapt import IAPT
from pt_language.methods.lora import LoRA
from pt_language.methods.p_tuning import PTuning
from pt_language.methods.prefix import Prefix, PrefixConfig, from_pairs, key_values
from pt_language.methods.prompt_tuning import PromptTuning, PromptTuningConfig

from tests.language.common import TEMPLATE, batch, close, make, task, tiny, unpadded

FAMILIES = ("llama", "qwen", "mistral", "gpt2")
KINDS: dict[str, Any] = {
    "prompt_tuning": (PromptTuning, {"prompt_length": 5, "init": "uniform"}),
    "prefix": (Prefix, {"prompt_length": 4, "init_std": 1.0}),
    "p_tuning": (PTuning, {"prompt_length": 3}),
}


@pytest.mark.parametrize("family", [*FAMILIES, "t5"])
def test_a_prompt_of_embedded_tokens_is_the_text_itself(family):
    """logits(P = E[a], b) == logits of the ids [a; b]."""
    method = make(PromptTuning, family, prompt_length=4).eval()
    front = torch.tensor([40, 41, 42, 43])
    one = batch(family, chosen=(3,))
    with torch.no_grad():
        method.prompt.copy_(method.backbone.embed(front))
        have = method.target_logits(one)
        ids = torch.cat([front[None], one.inputs["ids"]], 1)
        inputs = {"ids": ids, "mask": torch.ones_like(ids)}
        want = method.backbone.target_logits(inputs, one.extra["answer"])
    close(have, want, 2e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", KINDS)
def test_ragged_batches_equal_rows_and_the_shared_path_equals_the_plain_one(family, name):
    cls, options = KINDS[name]
    method, one = make(cls, family, **options).eval(), batch(family)
    with torch.no_grad():
        whole = method.target_logits(one)
        for row in range(len(one)):
            alone = Batch(
                unpadded(one, row), None, torch.arange(1), ["x"], {"answer": one.extra["answer"][row : row + 1]}
            )
            real = one.extra["answer"][row] >= 0
            close(whole[row][real], method.target_logits(alone)[0][real], 2e-5)
        with reference_kernels():
            close(whole[:, 0], method.target_logits(one)[:, 0], 2e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_of_either_side_changes_nothing(side):
    method = make(PromptTuning, prompt_length=3).eval()
    one = batch(chosen=(2,))
    ids, fill = one.inputs["ids"], torch.full((1, 6), 7)
    parts = (fill, ids) if side == "left" else (ids, fill)
    mask = torch.cat([torch.full_like(part, int(part is ids)) for part in parts], 1)
    with torch.no_grad():
        edits = method.edits(one)
        want = method.backbone({"ids": ids, "mask": torch.ones_like(ids)}, edits, read=("logits",)).extra["logits"][0]
        have = method.backbone({"ids": torch.cat(parts, 1), "mask": mask}, edits, read=("logits",)).extra["logits"][0]
    close(have[mask[0].bool()], want)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_equals_generation_without_shared_prefix(name, beams):
    cls, options = KINDS[name]
    method, one = make(cls, **options).eval(), batch()
    settings = {"num_beams": beams, "do_sample": False, "eos_token_id": None}
    with torch.no_grad():
        have = method.generate(one, 6, settings)
        for row in range(len(one)):
            alone = Batch(unpadded(one, row), None, torch.arange(1), ["x"])
            with reference_kernels():
                assert method.generate(alone, 6, settings)[0].tolist() == have[row].tolist()


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_of_an_encoder_decoder_behind_keys_and_values_equals_whole_passes(beams):
    """Cached decoding against a beam search of whole forward passes."""
    torch.manual_seed(1)
    method = make(Prefix, "t5", prompt_length=4, init_std=1.0).eval()
    ragged, settings = batch("t5", chosen=(0, 1, 2)), {"eos_token_id": None, "num_beams": beams}
    with torch.no_grad():
        found = method.generate(ragged, 5, settings)
        for row in range(3):
            one = Batch(unpadded(ragged, row), None, torch.arange(1), ["x"])
            kept = [(0.0, torch.zeros(1, 0, dtype=torch.long))]
            for _ in range(5):
                longer = []
                for score, answer in kept:
                    target = torch.cat([answer, answer.new_zeros(1, 1)], 1)
                    shares = method.target_logits(replace(one, extra={"answer": target}))[0, -1].log_softmax(-1)
                    for value, token in zip(*(t.tolist() for t in shares.topk(beams)), strict=True):
                        longer.append((score + value, torch.cat([answer, torch.tensor([[token]])], 1)))
                kept = sorted(longer, key=lambda pair: -pair[0])[:beams]
            assert found[row].tolist() == kept[0][1][0].tolist()
        bare = make(Prefix, "t5", prompt_length=4, init="zero").generate(ragged, 5, settings)
    assert not torch.equal(found, bare)


def test_choices_of_several_tokens_score_as_their_mean_log_probability():
    words = ["cold", "very very hot", "wet"]
    what = task(words=words)
    one = batch(what=what)
    method = PromptTuning(PromptTuningConfig(prompt_length=3), {"backbone": tiny("llama")}, what)
    with torch.no_grad():
        scores = method.eval().predict_step(one, torch.Generator)["logits"]
        encoder = Encoder(method.backbone.tokenizer)
        for choice, word in enumerate(words):
            ids = torch.tensor([encoder.answer(what.template, word).ids] * len(one))
            again = Batch(one.inputs, None, one.index, one.ids, {"answer": ids})
            steps = method.target_logits(again).log_softmax(-1).gather(-1, ids[..., None])[..., 0]
            close(scores[:, choice], steps.mean(1))


def test_labels_start_as_the_mean_of_their_tokens():
    method = make(PromptTuning, prompt_length=5, init="labels", population=7)
    backbone = method.backbone
    ids = Encoder(backbone.tokenizer).answer(method.text_task.template, "hot").ids
    assert len(ids) > 1
    close(method.prompt[1], backbone.embeddings[torch.tensor(ids)].mean(0))
    rest = method.prompt[3:]
    assert all(any(torch.equal(row, token) for token in backbone.embeddings[:7]) for row in rest)


def test_initial_values():
    table = tiny("llama").embeddings
    sampled = make(PromptTuning, prompt_length=50, population=40).prompt
    found = [next(i for i, token in enumerate(table) if torch.equal(token, row)) for row in sampled.detach()]
    assert max(found) < 40
    assert len(set(found[:40])) == 40, "without replacement while the population lasts"
    assert 0.4 < float(make(PromptTuning, prompt_length=50, init="uniform").prompt.detach().abs().max()) <= 0.5
    assert float(make(PromptTuning, prompt_length=50, init="uniform_positive").prompt.detach().min()) >= 0
    text = make(PromptTuning, prompt_length=6, init="text", init_text="ab", fill="repeat").prompt
    assert torch.equal(text[0], text[2])


def test_prefix_rows_are_key_value_key_value():
    theta = torch.arange(2 * 4 * 2 * 8, dtype=torch.float32).view(2, 64)
    edits = key_values(theta[None], ((2, theta.shape[1] // 8, theta.shape[1] // 8),) * 2)
    assert torch.equal(edits["kv[0]"].k[0, 1, 0], theta[0, 8:16])
    assert torch.equal(edits["kv[0]"].v[0, 0, 1], theta[1, 16:24])
    assert torch.equal(edits["kv[1]"].k[0, 0, 0], theta[0, 32:40])
    assert torch.equal(from_pairs([(edits[f"kv[{n}]"].k, edits[f"kv[{n}]"].v) for n in range(2)]), theta)


@pytest.mark.parametrize("length", [200, 20])
def test_published_parameter_counts(length):
    depth, dim, width = 28, 3072, 1024  # Llama-3.2-3B
    assert 200 * dim == 614_400
    assert 200 * depth * 2 * width == 11_468_800
    method = make(Prefix, prompt_length=length)
    assert method.parameter_count() == length * 2 * 2 * 16


def test_prefix_from_the_vocabulary_is_what_tokens_leave_in_the_cache():
    method = make(Prefix, "gpt2", prompt_length=3, init="vocabulary")
    one = batch("gpt2", chosen=(1,))
    with torch.no_grad():
        have = method.target_logits(one)
        rows = list(method.backbone.embeddings)
        small = [method.backbone.run_prefix(r[None, None])[0].cache.layers[0].keys for r in rows[:300]]
        first = method.prompt.view(3, 4, 4, 8)[0, 0]
        candidates = [i for i, keys in enumerate(small) if torch.allclose(keys[0, :, 0], first, atol=1e-5)]
    assert len(candidates) == 1
    assert have.shape[0] == 1


@pytest.mark.parametrize("name", ["p_tuning", "prefix_projected"])
def test_what_a_network_produced_is_enough_for_predictions(name):
    cls, options = (
        (PTuning, {"prompt_length": 3}) if name == "p_tuning" else (Prefix, {"prompt_length": 3, "projection": 6})
    )
    method, fresh, one = make(cls, **options).eval(), make(cls, **options).eval(), batch()
    artifact = method.export("predict")
    assert set(artifact) == {"prompt"}
    with torch.no_grad():
        for tensor in fresh.parameters():
            tensor.normal_()
        fresh.restore("predict", artifact)
        close(fresh.target_logits(one), method.target_logits(one), 1e-6)
        fresh.restore("train", method.export("train"))
        assert torch.equal(fresh.produce(), method.produce())


@pytest.mark.filterwarnings("ignore")  # of the other library
def test_flops_against_peft():
    """B=16, 100 prompt and 128 own tokens, forward and backward: at most 0.6 of what PEFT's prompt tuning computes."""
    import peft
    import transformers
    from pt_language.adapters.decoder import DecoderBackbone

    from tests.language.common import tokenizer

    config = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
    )
    models = [transformers.LlamaForCausalLM(config).eval() for _ in range(2)]
    settings = PromptTuningConfig(prompt_length=100, init="normal")
    ours = PromptTuning(settings, {"backbone": DecoderBackbone(models[0], tokenizer(), "tiny")}, task())
    theirs: Any = peft.get_peft_model(models[1], peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=100))
    ids = torch.randint(1, 250, (16, 129), generator=torch.Generator().manual_seed(0))
    inputs = {"ids": ids[:, :1], "mask": torch.ones(16, 1, dtype=torch.long)}
    one = Batch(inputs, None, torch.arange(16), ["x"] * 16, {"answer": ids[:, 1:]})
    with torch.no_grad():
        ours.prompt.copy_(theirs.prompt_encoder["default"].embedding.weight)
        models[0].load_state_dict(models[1].state_dict())
    with flop_counter() as counter:
        have = ours.target_logits(one)
        have.sum().backward()
    fast = counter.get_total_flops()
    with flop_counter() as counter:
        want = theirs(input_ids=ids[:, :128], attention_mask=torch.ones_like(ids[:, :128])).logits
        want[:, 100:].sum().backward()
    slow = counter.get_total_flops()
    close(have, want[:, 100:], 2e-5)
    assert fast <= 0.6 * slow, f"{fast / slow:.3f}"


BAD: dict[str, tuple[Any, str]] = {
    "no length": (lambda: build_all({"c": PromptTuningConfig}, {"prompt_length": 0}), "prompt_length=0"),
    "typo": (lambda: build_all({"c": PromptTuningConfig}, {"prompt_lenght": 3}), "did you mean 'prompt_length'"),
    "text without text": (lambda: PromptTuningConfig(init="text"), "belong together"),
    "text of nothing": (lambda: make(PromptTuning, init="text", init_text="", prompt_length=3), "zero tokens"),
    "projection of zeros": (lambda: PrefixConfig(projection=3, init="zero"), "needs init='normal'"),
    "iapt on an encoder-decoder": (
        lambda: make(IAPT, "t5"),
        "kind decoder; 'tiny:t5-0' is of kind encoder-decoder",
    ),
    "tokens' keys of an encoder-decoder": (
        lambda: make(Prefix, "t5", init="vocabulary"),
        "in a causal model; 'tiny:t5-0' is of kind encoder-decoder",
    ),
    "words on an encoder": (lambda: make(PromptTuning, "bert"), "cannot score label words; use --scoring head"),
    "too long": (
        lambda: make(PromptTuning, prompt_length=250),
        r"prompt of 250 tokens and text of \d+ tokens exceed .* of 256",
    ),
    "odd width": (lambda: make(PTuning, prompt_length=0), "prompt_length=0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name):
    run, message = BAD[name]
    with pytest.raises((UserError, ValueError), match=message):
        run()


def test_a_prompt_of_another_width_or_length_is_refused():
    with pytest.raises(ArtifactError, match=r"\(6, 32\).*\(5, 32\)"):
        make(PromptTuning, prompt_length=5).restore("predict", {"prompt": torch.zeros(6, 32)})
    backbone = tiny("llama")
    ids = torch.tensor([[1, 2]])
    from pt_core import Insert

    with pytest.raises(UserError, match="the prompt has width 16, backbone 'tiny:llama-0' has 32"):
        backbone({"ids": ids, "mask": torch.ones_like(ids)}, {"input": Insert(torch.zeros(3, 16), keep_output=True)})


def test_classes_that_look_alike_are_refused():
    with pytest.raises(ConfigError, match="label word 'same' stands for two classes"):
        task(words=["same", "same", "other"])
    assert task().template.text == TEMPLATE


@pytest.mark.parametrize("name", KINDS)
def test_recomputing_blocks_changes_nothing(name):
    cls, options = KINDS[name]
    method, one = make(cls, **options), batch()
    gradients = []
    for recompute in (False, True):
        method.backbone.recompute = recompute
        method.zero_grad()
        method.training_step(one).loss.backward()
        gradients.append([p.grad.clone() for p in method.parameters()])
    for have, want in zip(*gradients, strict=True):
        close(have, want)


@pytest.mark.parametrize(("cls", "options"), [(FullFineTuning, {}), (LoRA, {"rank": 2, "dropout": 0.4})])
def test_recomputing_blocks_with_other_weights_and_draws_changes_nothing(cls, options):
    method, one = make(cls, **options), keyed(batch(), "step", 0)
    gradients = []
    for recompute in (False, True):
        method.backbone.recompute = recompute
        method.zero_grad()
        method.training_step(one).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None})
    plain, again = gradients
    assert plain.keys() == again.keys()
    for name, want in plain.items():
        close(again[name], want)


def test_recomputing_a_network_that_draws_is_refused():
    method = make(FullFineTuning, stochastic=True)
    assert method.coupled
    method.backbone.recompute = True
    with pytest.raises(ConfigError, match="recompute"):
        method(batch())


def test_padding_never_takes_places_of_a_short_window():
    method = make(PromptTuning, "mistral", prompt_length=3).eval()
    method.backbone.sizes = replace(method.backbone.sizes, window=20)
    whole = batch("mistral")
    with pytest.raises(UserError, match="last 20 positions only.*rows of one length at a time"):
        method.backbone(whole.inputs, method.edits(whole))
    found = method.target_logits(whole)
    for row in range(len(whole)):
        alone = method.target_logits(batch("mistral", chosen=(row,)))[0]
        close(found[row, : len(alone)], alone)
