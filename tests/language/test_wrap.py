"""A method on a transformers model of one's own as a plain module: in a bare loop, in HF Trainer, in Lightning Fabric."""

from __future__ import annotations

import copy
from typing import Any

import pt_language
import pytest
import torch
import transformers
from pt_core.errors import BackboneMismatch, ConfigError, UserError
from torch.nn import functional as F

from tests.language.common import LABELS, SENTENCES, close, tiny, tokenizer
from tests.loops import by_fabric, by_trainer

TEXTS = [f"input: {text} output:" for label in LABELS for text in SENTENCES[label]]
Y = torch.tensor([number for number, label in enumerate(LABELS) for _ in SENTENCES[label]])


def model(name: str = "llama") -> Any:
    return tiny(name).module


def tokens(left: bool = False, texts: list[str] = TEXTS) -> dict[str, torch.Tensor]:
    """As a tokenizer of transformers pads them."""
    rows = [tokenizer()(text)["input_ids"] for text in texts]
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[number, place], mask[number, place] = torch.tensor(row), 1
    return {"input_ids": ids, "attention_mask": mask}


X = tokens()


def wrapped(name: str = "llama", method: str = "prompt_tuning", network: Any = None, **options: Any) -> Any:
    given = {"tokenizer": tokenizer(), **({"prompt_length": 5} if method == "prompt_tuning" else {}), **options}
    return pt_language.wrap(model(name) if network is None else network, method, LABELS, **given)


@torch.no_grad()
def loss(module: Any) -> float:
    return float(F.cross_entropy(module.eval()(**X), Y))


def frozen(module: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.method.backbone.module.named_parameters()}


def unchanged(module: Any, before: dict[str, torch.Tensor]) -> bool:
    now = module.method.backbone.module.named_parameters()
    return all(torch.equal(tensor, before[name]) for name, tensor in now)


@pytest.mark.parametrize(
    ("name", "options", "own"),
    [
        ("llama", {}, {"method.prompt"}),
        ("llama", {"scoring": "head"}, {"method.prompt", "method.head.weight", "method.head.bias"}),
        ("t5", {}, {"method.prompt"}),
        ("bert", {}, {"method.prompt", "method.head.weight", "method.head.bias"}),
    ],
)
def test_a_bare_loop_trains_what_is_tuned_and_nothing_else(name, options, own, tmp_path):
    network = model(name)
    module = wrapped(name, network=network, **options)
    before, start = frozen(module), loss(module)
    assert set(module.state_dict()) == own
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    module.train()
    assert not network.training
    for _ in range(25):
        optimiser.zero_grad()
        F.cross_entropy(module(**X), Y).backward()
        optimiser.step()
    end = loss(module)
    assert end < start - 0.05
    assert unchanged(module, before)
    module.save(tmp_path / "tuned", {"loss": end})
    again = pt_language.load(tmp_path / "tuned", backbone=pt_language.adapt(model(name), tokenizer()), device="cpu")
    with torch.no_grad():
        close(again.module()(X["input_ids"], X["attention_mask"]), module(**X))
    said = [record["predicted"] for record in again.predict(["snow falls", "a fire"])]
    assert set(said) <= set(LABELS)
    with pytest.raises(UserError, match="of your own: pass that network as backbone="):
        pt_language.load(tmp_path / "tuned")


def test_a_model_that_was_loaded_brings_its_tokenizer(tmp_path):
    """As users have it: from_pretrained, wrap, save; and again from_pretrained, load."""
    model().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    module = pt_language.wrap(
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model"), "prompt_tuning", LABELS, prompt_length=5
    )
    module.save(tmp_path / "tuned")
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    predictor = pt_language.load(tmp_path / "tuned", backbone=network, device="cpu")
    with torch.no_grad():
        close(predictor.module()(**X), module.eval()(**X))
    assert predictor.predict("input: snow falls output:")[0]["predicted"] in LABELS


def test_a_head_needs_no_tokenizer(tmp_path):
    module = pt_language.wrap(model(), "prompt_tuning", 3, scoring="head", prompt_length=5)
    assert module(**X).shape == (15, 3)
    module.save(tmp_path / "tuned")
    predictor = pt_language.load(tmp_path / "tuned", backbone=model(), device="cpu")
    with torch.no_grad():
        close(predictor.module()(**X), module.eval()(**X))
    with pytest.raises(UserError, match="texts and label words need a tokenizer"):
        predictor.predict("snow falls")
    with pytest.raises(UserError, match="texts and label words need a tokenizer"):
        pt_language.wrap(model(), "prompt_tuning", 3)


def test_hf_trainer_trains_it(tmp_path):
    module = wrapped()
    before, start = frozen(module), loss(module)
    by_trainer(module, {**X, "labels": Y}, tmp_path, 20, 5, gradient_accumulation_steps=3)
    assert loss(module) < start - 0.05
    assert unchanged(module, before)


def test_lightning_fabric_trains_it():
    module = wrapped(scoring="head")
    start = loss(module)
    module = by_fabric(module, lambda prepared: F.cross_entropy(prepared(**X), Y), 25, 0.02)
    assert loss(module) < start - 0.05


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "bert"])
def test_the_side_of_padding_and_the_batch_change_nothing(name):
    module = wrapped(name).eval()
    with torch.no_grad():
        want = module(**X)
        close(module(**tokens(left=True)), want, 2e-5)
        for row in (0, 1):
            alone = tokens(texts=TEXTS[row : row + 1])
            close(module(alone["input_ids"]), want[row : row + 1], 2e-5)
        close(module(**X, token_type_ids=torch.zeros_like(X["input_ids"])), want)


def test_scores_are_those_of_the_command_line():
    """The mean log-probability of the label word's tokens behind the text, as `predict` has it."""
    module = wrapped().eval()
    method = module.method
    with torch.no_grad():
        have = module(**X)
        row = tokens(texts=TEXTS[:1])["input_ids"][0]
        for number, word in enumerate(LABELS):
            answer = torch.tensor(tokenizer()(" " + word)["input_ids"])
            inputs = {"ids": row[None], "mask": torch.ones_like(row[None])}
            logits = method.backbone.target_logits(inputs, answer[None], method.edits(None))[0]
            want = logits.log_softmax(-1).gather(1, answer[:, None]).mean()
            close(have[0, number], want, 2e-5)


@pytest.mark.parametrize("method", ["prefix", "p_tuning", "lora", "full"])
def test_other_methods_can_be_wrapped(method):
    module = wrapped(method=method)
    start = loss(module)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.01)
    module.train()
    for _ in range(3):
        optimiser.zero_grad()
        found = module(**X, labels=Y)
        found["loss"].backward()
        optimiser.step()
    assert loss(module) < start
    other = copy.deepcopy(module)
    assert other.method.backbone is module.method.backbone
    with torch.no_grad():
        close(other(**X), module(**X))
    half = wrapped(method=method, scoring="head").bfloat16().eval()
    with torch.no_grad():
        assert half(**X).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("cpt", {}, "'cpt' is sized by its training data; train it with `fit`"),
        ("icl", {"examples": 0}, "'icl' is sized by its training data"),
        ("iapt", {}, "'iapt' has stages, jobs or steps of its own"),
    ],
)
def test_what_a_plain_loop_would_leave_out_is_refused(method, options, said):
    with pytest.raises(UserError, match=said):
        wrapped(method=method, **options)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ConfigError, match="unknown option 'prompt_lenght' \\(did you mean 'prompt_length'\\?\\)"):
        wrapped(prompt_lenght=3)
    with pytest.raises(ConfigError, match="scoring='hed'"):
        wrapped(scoring="hed")
    with pytest.raises(UserError, match="pt-language has no adapter for a Linear"):
        wrapped(network=torch.nn.Linear(4, 4))
    with pytest.raises(UserError, match="a LlamaModel is neither a causal language model"):
        wrapped(network=model().model)
    with pytest.raises(TypeError, match="takes input_ids and attention_mask.*set remove_unused_columns=False"):
        wrapped()(labels=Y)
    with pytest.raises(TypeError, match="token_type_ids of a second one are not supported"):
        wrapped()(**X, token_type_ids=torch.ones_like(X["input_ids"]))
    with pytest.raises(TypeError, match="the backbone has its tokenizer"):
        wrapped(network=tiny("llama"))
    wrapped().save(tmp_path / "tuned")
    with pytest.raises(BackboneMismatch, match="tokenizer.*None"):
        pt_language.load(tmp_path / "tuned", backbone=model(), device="cpu")
    with pytest.raises(BackboneMismatch):
        pt_language.load(tmp_path / "tuned", backbone=pt_language.adapt(tiny("llama", 5).module, tokenizer()))
