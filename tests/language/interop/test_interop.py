"""Prompts cross to the PEFT library and back with the same logits; nothing in a foreign folder decides what is loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from pt_core.errors import ArtifactError, UserError
from pt_core.saving import card_of, save_artifact
from pt_language.adapters.base import LanguageBackbone
from pt_language.backbones import adapt
from pt_language.interop import (
    export_embeddings,
    export_peft,
    import_peft,
    read_foreign,
    request_embeddings,
    virtual_tokens,
)
from pt_language.method import LanguageMethod
from safetensors.torch import load_file, save_file

from tests.language import tiny

TEXT = "a sentence"
METHODS = ("prompt_tuning", "p_tuning", "prefix")


def ids_of(text: str = TEXT) -> torch.Tensor:
    return torch.tensor([tiny.tokenizer()(text, add_special_tokens=False)["input_ids"]])


@torch.no_grad()
def our_logits(method: LanguageMethod) -> torch.Tensor:
    """Next-token logits behind the text, or of the decoder's first tokens."""
    ids = ids_of()
    inputs = {"ids": ids, "mask": torch.ones_like(ids)}
    from pt_core import Batch

    batch = Batch(inputs, None, torch.arange(1), ["a"], {"answer": ids[:, :4]})
    return method.target_logits(batch)


@torch.no_grad()
def peft_logits(model: Any, kind: str) -> torch.Tensor:
    ids = ids_of()
    mask = torch.ones_like(ids)
    if kind == "t5":
        start = torch.cat([torch.zeros(1, 1, dtype=torch.long), ids[:, :3]], 1)
        return model(input_ids=ids, attention_mask=mask, decoder_input_ids=start).logits
    whole = torch.cat([ids, ids[:, :3]], 1)
    return model(input_ids=whole, attention_mask=torch.ones_like(whole)).logits[:, -4:]


def peft_made(name: str, kind: str, parts: int | None = None, **options: Any) -> Any:
    """A PEFT model with random prompt values."""
    task_type = "SEQ_2_SEQ_LM" if kind == "t5" else "CAUSAL_LM"
    common: dict[str, Any] = {
        "task_type": task_type,
        "num_virtual_tokens": 6,
        "num_transformer_submodules": parts,
        **options,
    }
    config: Any = {
        "prompt_tuning": peft.PromptTuningConfig,
        "p_tuning": peft.PromptEncoderConfig,
        "prefix": peft.PrefixTuningConfig,
    }[name](**common)
    torch.manual_seed(3)
    model = peft.get_peft_model(tiny.network(kind), config).eval()
    with torch.no_grad():
        for parameter in model.prompt_encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


CASES = [(name, kind) for name in METHODS for kind in ("llama", "gpt2", "t5")]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_ours_opens_in_peft(name: str, kind: str, tmp_path: Path) -> None:
    method = tiny.tuned(name, tiny.backbone(kind))
    export_peft(method, tmp_path / "out")
    model = peft.PeftModel.from_pretrained(tiny.network(kind), tmp_path / "out").eval()
    found, expected = peft_logits(model, kind), our_logits(method)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    bare = our_logits(tiny.tuned(name, tiny.backbone(kind), seed=2))
    assert not torch.allclose(found, bare, atol=1e-2)  # another prompt is told apart


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_theirs_opens_here(name: str, kind: str, tmp_path: Path) -> None:
    model = peft_made(name, kind)
    model.save_pretrained(tmp_path)
    found, method = import_peft(tmp_path, tiny.backbone(kind), tiny.task())
    assert found == ("prefix" if name == "prefix" else "prompt_tuning")
    torch.testing.assert_close(our_logits(method.eval()), peft_logits(model, kind), rtol=1e-4, atol=1e-4)


def test_lstm_encoder_and_projection_open_here(tmp_path: Path) -> None:
    lstm = peft_made("p_tuning", "llama", encoder_reparameterization_type="LSTM", encoder_hidden_size=16)
    lstm.save_pretrained(tmp_path / "lstm")
    torch.testing.assert_close(
        our_logits(import_peft(tmp_path / "lstm", tiny.backbone(), tiny.task())[1]),
        peft_logits(lstm, "llama"),
        rtol=1e-4,
        atol=1e-4,
    )
    projected = peft_made("prefix", "gpt2", prefix_projection=True, encoder_hidden_size=16)
    projected.save_pretrained(tmp_path / "prefix")
    torch.testing.assert_close(
        our_logits(import_peft(tmp_path / "prefix", tiny.backbone("gpt2"), tiny.task())[1]),
        peft_logits(projected, "gpt2"),
        rtol=1e-4,
        atol=1e-4,
    )


def test_peft_gives_decoder_blocks_of_t5_one_prefix_and_ours_has_one_each(tmp_path: Path) -> None:
    """PEFT's order of slots: with 2 layers both blocks read slots 0 and 1; what we write has a slot pair for every block."""
    peft_made("prefix", "t5").save_pretrained(tmp_path / "theirs")
    method: Any = import_peft(tmp_path / "theirs", tiny.backbone("t5"), tiny.task())[1]
    slots = method.prompt.detach().view(6, 4, -1)
    assert torch.equal(slots[:, :2], slots[:, 2:])
    assert torch.equal(slots[:, :2], read_foreign(tmp_path / "theirs").prompt.view(6, 4, -1)[:, :2])
    export_peft(tiny.tuned("prefix", tiny.backbone("t5")), tmp_path / "ours")
    config = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert (config["num_layers"], config["num_transformer_submodules"]) == (4, 2)
    again: Any = import_peft(tmp_path / "ours", tiny.backbone("t5"), tiny.task())[1]
    assert torch.equal(again.prompt, tiny.tuned("prefix", tiny.backbone("t5")).prompt)  # type: ignore[arg-type]


def test_a_prefix_of_bert_has_peft_s_hidden_states(tmp_path: Path) -> None:
    """P-tuning v2's own setting: the encoder's states behind the prefix, a ragged batch with padding on the left."""
    from pt_core import Batch
    from pt_language.methods.prefix import Prefix, PrefixConfig
    from pt_language.tasks.classification import TextClassification

    from tests.language import common

    on = common.tiny("bert")
    config = peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=6)
    torch.manual_seed(3)
    model = peft.get_peft_model(common.tiny("bert").module, config).eval()
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.normal_()
    method = Prefix(
        PrefixConfig(prompt_length=6), {"backbone": on}, TextClassification(("a", "b"), "{t} {l}", None, "head")
    )
    with torch.no_grad():
        method.prompt.copy_(model.prompt_encoder["default"].embedding.weight)
        ids = torch.randint(1, 250, (3, 9))
        mask = torch.ones_like(ids)
        mask[1, 5:] = 0
        batch = Batch({"ids": ids, "mask": mask}, None, torch.arange(3), ["a", "b", "c"])
        have = on(batch.inputs, method.edits(batch))
        want = model(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(have.tokens[0], want[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(have.tokens[1, :5], want[1, :5], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(have.extra["pooled"], want[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("parts", [1, 2])
def test_rows_that_peft_never_uses_are_left_out(parts: int, tmp_path: Path) -> None:
    model = peft_made("prompt_tuning", "t5", parts)
    model.save_pretrained(tmp_path)
    foreign = read_foreign(tmp_path)
    assert foreign.prompt.shape == (6, 32)
    assert bool(foreign.notes) == (parts == 2)
    export_peft(import_peft(tmp_path, tiny.backbone("t5"), tiny.task())[1], tmp_path / "out")
    assert load_file(tmp_path / "out" / "adapter_model.safetensors")["prompt_embeddings"].shape == (6, 32)
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["num_transformer_submodules"] == 1


def cpt_method(on: LanguageBackbone) -> Any:
    method: Any = tiny.tuned("cpt", on)
    method.set_context(*tiny.context(on))
    with torch.no_grad():
        method.delta.normal_(0, 0.05)
        method.delta[~method.movable] = 0
        method.project()
    return method


def test_cpt_crosses_both_ways(tmp_path: Path) -> None:
    on = tiny.backbone()
    method = cpt_method(on)
    export_peft(method, tmp_path / "ours")
    model = peft.PeftModel.from_pretrained(tiny.network("llama"), tmp_path / "ours").eval()
    torch.testing.assert_close(peft_logits(model, "llama"), our_logits(method), rtol=1e-4, atol=1e-4)
    name, back = import_peft(tmp_path / "ours", on, tiny.task())
    assert name == "cpt"
    torch.testing.assert_close(back.delta, method.delta, atol=1e-6, rtol=0)
    assert torch.equal(back.codes, method.codes)
    with pytest.raises(ArtifactError, match="tuned on another model"):
        import_peft(tmp_path / "ours", tiny.backbone(seed=5), tiny.task())


def test_an_imported_prompt_can_be_tuned_saved_and_loaded(tmp_path: Path) -> None:
    from pt_core.run.use.predict import load
    from pt_language.modality import Language

    peft_made("p_tuning", "llama").save_pretrained(tmp_path / "theirs")
    on = tiny.backbone()
    name, method = import_peft(tmp_path / "theirs", on, tiny.task())
    our = our_logits(method)
    save_artifact(tmp_path / "run", method, card_of(method, f"pt-language/{name}"))
    again = load(Language(), tmp_path / "run", backbone=on, training=True, device="cpu").method
    assert torch.equal(our_logits(again), our)  # type: ignore[arg-type]
    again.train()
    ids = ids_of()
    from pt_core import Batch

    batch = Batch(
        {"ids": ids, "mask": torch.ones_like(ids)}, ids[:, :2], torch.arange(1), ["a"], {"answer": ids[:, :2]}
    )
    again.training_step(batch).loss.backward()
    assert [float(p.grad.norm()) > 0 for p in again.parameters()] == [True]


def test_embeddings_are_what_the_model_reads(tmp_path: Path) -> None:
    for name in ("prompt_tuning", "p_tuning"):
        method = tiny.tuned(name, tiny.backbone())
        out = tmp_path / f"{name}.safetensors"
        export_embeddings(method, out)
        assert torch.equal(load_file(out)["prompt_embeds"], virtual_tokens(method))
        embeds = request_embeddings(method, TEXT)
        assert torch.equal(embeds[:5], virtual_tokens(method))
        with torch.no_grad():
            logits = tiny.network("llama")(inputs_embeds=embeds[None]).logits[:, -1]
        torch.testing.assert_close(logits, our_logits(method)[:, 0], rtol=1e-4, atol=1e-4)
    assert torch.equal(virtual_tokens(cpt_method(tiny.backbone())), cpt_method(tiny.backbone()).prompt())


@pytest.mark.parametrize("name", ["prefix", "iapt"])
def test_prompts_inside_the_layers_are_no_embeddings(name: str, tmp_path: Path) -> None:
    options = {"bottleneck": 4} if name == "iapt" else {}
    with pytest.raises(UserError, match="no list of input vectors"):
        export_embeddings(tiny.tuned(name, tiny.backbone(), **options), tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    method = tiny.tuned("prompt_tuning", tiny.backbone())
    with pytest.raises(UserError, match="PEFT has no form for IAPT"):
        export_peft(tiny.tuned("iapt", tiny.backbone(), bottleneck=4), tmp_path / "out")
    with pytest.raises(UserError, match="must end in .safetensors"):
        export_embeddings(method, tmp_path / "x.bin")
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="exists; choose another --out"):
        export_peft(method, tmp_path / "there")
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


def folder(tmp_path: Path, name: str = "prompt_tuning", kind: str = "llama", **changes: Any) -> Path:
    export_peft(tiny.tuned(name, tiny.backbone(kind)), tmp_path / "peft")
    path = tmp_path / "peft" / "adapter_config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(config))
    return tmp_path / "peft"


def test_a_foreign_configuration_reaches_no_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, tokenizer options and code flags in a folder are inert: nothing is imported, opened or downloaded for them."""
    import transformers

    hostile = {
        "base_model_name_or_path": "somebody/model",
        "tokenizer_name_or_path": "somebody/tokenizer",
        "tokenizer_kwargs": {"trust_remote_code": True},
        "trust_remote_code": True,
        "prompt_tuning_init": "TEXT",
        "prompt_tuning_init_text": "x",
        "auto_mapping": {"base_model_class": "os.system", "parent_library": "os"},
        "revision": "../../etc",
        "some_new_key": [1, {"a": 2}],
    }
    source = folder(tmp_path, **hostile)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a loader was called")

    for loader in (transformers.AutoTokenizer, transformers.AutoConfig, transformers.AutoModelForCausalLM):
        monkeypatch.setattr(loader, "from_pretrained", refuse)
    name, method = import_peft(source, tiny.backbone(), tiny.task())
    assert name == "prompt_tuning"
    card = json.dumps(card_of(method, "pt-language/prompt_tuning"))
    assert "somebody" not in card
    assert "trust_remote_code" not in card


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LORA"}, "peft_type 'LORA'; readable are PROMPT_TUNING"),
        ({"modules_to_save": ["score"]}, "only the prompt itself can be read"),
        ({"num_virtual_tokens": 7}, "has 5 rows, the configuration says 1 x 7"),
        ({"num_virtual_tokens": -1}, "no valid num_virtual_tokens"),
        ({"num_virtual_tokens": "5"}, "no valid num_virtual_tokens"),
        ({"num_transformer_submodules": 3}, "has 5 rows, the configuration says 3 x 5"),
        ({"peft_type": "CPT", "cpt_token_ids": "abc"}, "cpt_token_ids is not a list of numbers"),
        (
            {"peft_type": "CPT", "cpt_token_ids": [1] * 5, "cpt_tokens_type_mask": [1] * 5},
            "the last example has no label",
        ),
        ({"peft_type": "CPT", "cpt_token_ids": [9999] * 5, "cpt_tokens_type_mask": [4] * 5}, "outside the vocabulary"),
    ],
)
def test_damaged_folders_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=message):
        import_peft(folder(tmp_path, **changes), tiny.backbone(), tiny.task())


def test_sizes_that_do_not_fit_name_both(tmp_path: Path) -> None:
    source = folder(tmp_path, "prefix")
    with pytest.raises(ArtifactError, match="2 x 3 layers x 4 key/value heads x width 8 = 192"):
        import_peft(source, tiny.backbone("gpt2"), tiny.task())
    save_file({"prompt_embeddings": torch.zeros(5, 48)}, tmp_path / "peft" / "adapter_model.safetensors")
    config = tmp_path / "peft" / "adapter_config.json"
    config.write_text(json.dumps({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 5}))
    with pytest.raises(ArtifactError, match=r"width 48, backbone 'test:llama-0' has 32"):
        import_peft(tmp_path / "peft", tiny.backbone(), tiny.task())
    config.write_text(
        json.dumps({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5, "num_transformer_submodules": 2})
    )
    with pytest.raises(ArtifactError, match="for an encoder-decoder .* is of kind decoder"):
        import_peft(tmp_path / "peft", tiny.backbone(), tiny.task())
    with pytest.raises(ArtifactError, match=r"rows of 48; .* width 8 = 128 or more"):
        import_peft(tmp_path / "peft", tiny.backbone("t5"), tiny.task())


def test_pickles_and_strays_are_refused(tmp_path: Path) -> None:
    source = folder(tmp_path)
    weights = source / "adapter_model.safetensors"
    weights.rename(source / "adapter_model.bin")
    with pytest.raises(ArtifactError, match="is a pickle and is not opened"):
        read_foreign(source)
    save_file({"prompt_embeddings": torch.zeros(5, 32), "other": torch.zeros(1)}, weights)
    with pytest.raises(ArtifactError, match="must hold one matrix"):
        read_foreign(source)
    save_file({"prompt_embeddings": torch.full((5, 32), torch.nan)}, weights)
    with pytest.raises(ArtifactError, match="NaN"):
        read_foreign(source)
    with pytest.raises(ArtifactError, match="has no adapter_config.json"):
        read_foreign(tmp_path)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ArtifactError, match="cannot be read as an array"):
        read_foreign(tmp_path / "objects.npy")
    np.save(tmp_path / "pool.npy", np.zeros((2, 3, 4), dtype=np.float32))
    with pytest.raises(ArtifactError, match=r"one prompt of floats \(L, d\)"):
        read_foreign(tmp_path / "pool.npy")


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "norm"), [("sst2", 1385), ("rte", 903), ("mrpc", 868)])
def test_published_t5_prompts_load(name: str, norm: float) -> None:
    """The released prompts for T5 1.1 base (LM-adapted), on a random model of the same width, without a changed value."""
    import transformers
    from pt_language.adapters.encoder_decoder import EncoderDecoderBackbone

    path = Path(os.environ["PT_REALDATA"]) / "learned_prompts" / f"t5_base_lm100k_{name}.npy"
    config = transformers.T5Config(
        vocab_size=tiny.VOCABULARY, d_model=768, d_kv=16, d_ff=64, num_layers=1, num_heads=4, decoder_start_token_id=0
    )
    torch.manual_seed(0)
    on = EncoderDecoderBackbone(transformers.T5ForConditionalGeneration(config), tiny.tokenizer(), "test:t5-768")
    found, method = import_peft(path, on, tiny.task())
    assert found == "prompt_tuning"
    prompt: Any = method.prompt
    assert np.array_equal(prompt.detach().numpy(), np.load(path))
    assert abs(float(prompt.detach().norm(dim=1).mean()) - norm) < 1
    assert bool(our_logits(method).isfinite().all())


# ---- prefixes of models that keep other keys and values than their heads tell -------------------------------------------------


def keeper(family: str) -> Any:
    """A tiny model whose cache has shapes of its own: one head for all queries, or a compressed state."""
    common: dict[str, Any] = {"vocab_size": tiny.VOCABULARY, "eos_token_id": 256, "bos_token_id": None}
    flat: dict[str, Any] = {**common, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    latent: dict[str, Any] = {
        **flat, "intermediate_size": 48, "moe_intermediate_size": 16, "num_key_value_heads": 4, "q_lora_rank": 16, "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8, "v_head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 1,
        "topk_group": 1, "first_k_dense_replace": 1,
    }  # fmt: skip
    makers: dict[str, Any] = {
        "falcon": lambda: transformers.FalconForCausalLM(
            transformers.FalconConfig(**flat, multi_query=True, alibi=False, new_decoder_architecture=False)
        ),
        "gpt_bigcode": lambda: transformers.GPTBigCodeForCausalLM(
            transformers.GPTBigCodeConfig(**common, n_embd=32, n_layer=2, n_head=4, n_positions=128, multi_query=True)
        ),
        "deepseek_v2": lambda: transformers.DeepseekV2ForCausalLM(
            transformers.DeepseekV2Config(**latent, kv_lora_rank=8)
        ),
        "deepseek_v3": lambda: transformers.DeepseekV3ForCausalLM(
            transformers.DeepseekV3Config(**latent, kv_lora_rank=12)
        ),
    }
    torch.manual_seed(0)
    model = makers[family]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model.eval()


@pytest.mark.parametrize("family", ["falcon", "gpt_bigcode"])
def test_a_prefix_of_the_models_own_cache_crosses_both_ways(family: str, tmp_path: Path) -> None:
    on = adapt(keeper(family), tiny.tokenizer(), f"test:{family}")
    assert on.pairs == ((1, 8, 8),) * 2, "one head of keys and values for four of queries"
    method = tiny.tuned("prefix", on)
    export_peft(method, tmp_path / "out")
    expected = our_logits(method)
    model = peft.PeftModel.from_pretrained(keeper(family), tmp_path / "out").eval()
    torch.testing.assert_close(peft_logits(model, family), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(our_logits(tiny.tuned("prefix", on, seed=2)), expected, atol=1e-2)
    model.save_pretrained(tmp_path / "theirs")
    for folder in ("out", "theirs"):
        _, again = import_peft(tmp_path / folder, on, tiny.task())
        assert torch.equal(our_logits(again.eval()), expected)


@pytest.mark.parametrize(
    ("family", "outward", "inward"),
    [
        ("deepseek_v2", "PEFT would give 'test:deepseek_v2' prefixes of 4 heads of width 8.* are 1 heads with keys of 8 and values of 8",
         "'test:deepseek_v2' needs rows of 2 x 2 layers x 1 key/value heads x width 8 = 32"),
        ("deepseek_v3", "'test:deepseek_v3' keeps 1 heads with keys of 12 and values of 8",
         "'test:deepseek_v3' does not keep keys and values of one width"),
    ],
)  # fmt: skip
def test_a_prefix_without_a_form_in_peft_is_refused_both_ways(
    family: str, outward: str, inward: str, tmp_path: Path
) -> None:
    on = adapt(keeper(family), tiny.tokenizer(), f"test:{family}")
    method = tiny.tuned("prefix", on)
    assert torch.isfinite(our_logits(method)).all()
    with pytest.raises(UserError, match=outward):
        export_peft(method, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export_peft(tiny.tuned("prefix", tiny.backbone()), tmp_path / "llama")
    with pytest.raises(ArtifactError, match=inward):
        import_peft(tmp_path / "llama", on, tiny.task())
