"""Exchange with the real PEFT library: equal logits in both directions, and equal CPT training."""

from __future__ import annotations

import copy
import json
from typing import Any

import peft
import pytest
import torch
from pt_core.errors import ArtifactError, ConfigError
from pt_language.methods.cpt import CPT
from pt_language.methods.lora import LoRA
from pt_language.methods.p_tuning import PTuning
from pt_language.methods.prefix import Prefix
from pt_language.methods.prompt_tuning import PromptTuning
from pt_language.peft_format import export_peft, import_peft, save_embeddings
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.language.common import batch, close, data, make, task, tiny

pytestmark = pytest.mark.filterwarnings("ignore")  # of the other library

METHODS: dict[str, Any] = {
    "prompt_tuning": (PromptTuning, {"prompt_length": 5, "init": "uniform"}),
    "p_tuning": (PTuning, {"prompt_length": 5, "encoder": "mlp"}),
    "prefix": (Prefix, {"prompt_length": 5, "init_std": 1.0}),
    "prefix_projected": (Prefix, {"prompt_length": 5, "projection": 4}),
    "cpt": (CPT, {"adopt": 3}),
}


def own_logits(method: Any, ids: Tensor) -> Tensor:
    """(1, tokens, vocabulary) of our method."""
    inputs = {"ids": ids, "mask": torch.ones_like(ids), "prefix": method.prefix(batch()), "keep": 0}
    with torch.no_grad():
        logits: Tensor = method.backbone(inputs, method.edits(batch()), read=("logits",)).extra["logits"]
    return logits


def peft_logits(model: Any, ids: Tensor, front: int) -> Tensor:
    """(1, tokens, vocabulary) of a PEFT model, without what it returns for virtual tokens."""
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return logits[:, logits.shape[1] - ids.shape[1] :]


def moved(method: Any) -> Any:
    """The method with its CPT context moved as training would."""
    if isinstance(method, CPT):
        with torch.no_grad():
            method.delta.copy_(torch.randn_like(method.delta) * method.movable[:, None] * 0.1)
    return method.eval()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_exported_prompt_gives_equal_logits_in_peft(name, family, tmp_path):
    cls, options = METHODS[name]
    method = moved(make(cls, family, **options))
    export_peft(method, tmp_path / "peft")
    ids = torch.tensor([[11, 12, 13, 14, 15, 16]])
    model = peft.PeftModel.from_pretrained(copy.deepcopy(method.backbone.module), tmp_path / "peft").eval()
    if name == "cpt":
        types = torch.tensor([[2, 2, 2, 2, 3, 4]])
        labels = torch.full_like(ids, -100)
        with torch.no_grad():
            want = model(input_ids=ids, attention_mask=torch.ones_like(ids), input_type_mask=types, labels=labels).logits[:, -6:]
    else:
        want = peft_logits(model, ids, 5)
    close(own_logits(method, ids), want, 2e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("name", ["prompt_tuning", "p_tuning_mlp", "p_tuning_lstm", "prefix"])
def test_a_prompt_of_peft_gives_equal_logits_here(name, family, tmp_path):
    backbone = tiny(family)
    kinds: dict[str, Any] = {
        "prompt_tuning": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
        "p_tuning_mlp": lambda: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=5, encoder_hidden_size=16),
        "p_tuning_lstm": lambda: peft.PromptEncoderConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=5, encoder_hidden_size=16, encoder_reparameterization_type="LSTM"
        ),
        "prefix": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    }
    model = peft.get_peft_model(copy.deepcopy(backbone.module), kinds[name]()).eval()
    model.save_pretrained(tmp_path / "peft")
    method_id, method = import_peft(tmp_path / "peft", backbone, task())
    assert method_id == ("prefix" if name == "prefix" else "prompt_tuning")
    ids = torch.tensor([[11, 12, 13, 14, 15, 16]])
    close(own_logits(method.eval(), ids), peft_logits(model, ids, 5), 2e-5)


def test_peft_saves_two_submodules_for_encoder_decoders_and_the_first_is_read(tmp_path):
    backbone = tiny("t5")
    config = peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4)
    model = peft.get_peft_model(copy.deepcopy(backbone.module), config).eval()
    model.save_pretrained(tmp_path / "peft")
    assert len(load_file(tmp_path / "peft" / "adapter_model.safetensors")["prompt_embeddings"]) == 8
    _, method = import_peft(tmp_path / "peft", backbone, task())
    assert isinstance(method, PromptTuning)
    assert method.prompt.shape == (4, 32)
    ids, target = torch.tensor([[11, 12, 13]]), torch.tensor([[20, 21]])
    with torch.no_grad():
        want = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=target).logits
        have = backbone.target_logits({"ids": ids, "mask": torch.ones_like(ids)}, target, method.edits(batch("t5")))
    close(have, want, 2e-5)


def test_an_exported_encoder_prompt_says_one_submodule(tmp_path):
    method = make(PromptTuning, "t5", prompt_length=4)
    export_peft(method, tmp_path / "peft")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["num_transformer_submodules"], config["task_type"]) == (1, "SEQ_2_SEQ_LM")


@pytest.mark.parametrize("weighting", ["decay", "none"])
def test_cpt_trains_as_peft_does(weighting):
    """Loss and delta after three AdamW steps, from the same context and query."""
    method: Any = make(CPT, adopt=3, weighting=weighting, gamma=0.9)
    part = data(train=3)["train"]
    one = part.collate([1], [part.sample(1, epoch=None, seed=0)])
    config = peft.CPTConfig(
        task_type="CAUSAL_LM",
        cpt_token_ids=method.ids.tolist(),
        cpt_mask=[1] * len(method.ids),
        cpt_tokens_type_mask=method.codes.tolist(),
        opt_weighted_loss_type=weighting,
        opt_loss_decay_factor=0.9,
        opt_projection_epsilon=0.1,
        opt_projection_format_epsilon=0.1,
        tokenizer_name_or_path=None,
        num_virtual_tokens=len(method.ids),
    )
    model: Any = peft.get_peft_model(copy.deepcopy(method.backbone.module), config).eval()
    ids = torch.cat([one.inputs["ids"], one.extra["answer"]], 1)
    types = torch.cat([one.inputs["roles"], torch.full_like(one.extra["answer"], 4)], 1)
    theirs = model.prompt_encoder["default"].delta_embedding.weight
    ours = torch.optim.AdamW([method.delta], lr=0.01, weight_decay=0.0)
    other = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.0)
    for step in range(3):
        result = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids.clone(), input_type_mask=types.clone())
        mine = method.training_step(one).loss
        close(mine.detach(), result.loss.detach(), 1e-6)
        for optimiser, loss in ((ours, mine), (other, result.loss)):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        method.project()
        with torch.no_grad():
            model.prompt_encoder["default"].projection() if hasattr(model.prompt_encoder["default"], "projection") else None
            model.get_prompt(batch_size=1)
        assert float((method.delta - theirs).abs().max()) <= 1e-6, f"delta differs after step {step}"


def test_lora_shares_the_frozen_weights(tmp_path):
    method = make(LoRA, rank=2)
    frozen = dict(method.backbone.module.named_parameters())
    adapted = [p for n, p in method.network.module.named_parameters() if "lora_" not in n]
    assert {id(p) for p in adapted} == {id(p) for p in frozen.values()}


def test_prompts_are_written_as_plain_embeddings(tmp_path):
    method = make(PromptTuning, prompt_length=4)
    save_embeddings(method, tmp_path / "prompt.safetensors")
    assert torch.equal(load_file(tmp_path / "prompt.safetensors")["prompt_embeddings"], method.prompt)
    with pytest.raises(ConfigError, match="Prefix has no input vectors"):
        save_embeddings(make(Prefix, prompt_length=2), tmp_path / "no.safetensors")


def folder(tmp_path: Any, tensor: Tensor, **changes: Any) -> Any:
    config = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4, "trust_remote_code": True, **changes}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file({"prompt_embeddings": tensor}, tmp_path / "adapter_model.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("tensor", "changes", "message"),
    [
        (torch.zeros(4, 16), {}, "width 16, backbone 'tiny:llama-0' has 32"),
        (torch.zeros(5, 32), {}, "5 rows for 4 virtual tokens"),
        (torch.full((4, 32), torch.nan), {}, "not finite"),
        (torch.zeros(4, 32), {"task_type": "SEQ_2_SEQ_LM"}, "SEQ_2_SEQ_LM prompt.*kind decoder"),
        (torch.zeros(4, 32), {"peft_type": "LORA"}, "peft_type 'LORA'"),
        (torch.zeros(4, 32), {"num_virtual_tokens": 10**12}, "num_virtual_tokens"),
        (torch.zeros(4, 100), {"peft_type": "PREFIX_TUNING"}, r"needs \(4, 64\) = \(tokens, 2 x 2 layers x 2 key heads x 8\)"),
        (torch.zeros(4, 32), {"peft_type": "CPT"}, "cpt_token_ids must list 4 numbers"),
    ],
)
def test_folders_that_do_not_fit_are_refused(tensor, changes, message, tmp_path):
    with pytest.raises(ArtifactError, match=message):
        import_peft(folder(tmp_path, tensor, **changes), tiny("llama"), task())


def test_pickled_weights_are_not_read(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(ArtifactError, match="pickled .bin files are not read"):
        import_peft(tmp_path, tiny("llama"), task())


def test_methods_without_a_peft_format_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="PEFT has no format for LoRA"):
        export_peft(make(LoRA, rank=2), tmp_path / "x")
    with pytest.raises(ConfigError, match="classification head"):
        export_peft(make(PromptTuning, scoring="head", prompt_length=2), tmp_path / "y")
