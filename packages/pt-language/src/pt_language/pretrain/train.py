"""What `pt-language pretrain` trains, and the folder it writes."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pt_core.errors import UserError
from pt_core.run.pretrain.loop import decayed, descend
from pt_core.run.pretrain.recipe import versions, write_recipe
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from pt_language.data.corpus import HELD_OUT
from pt_language.pretrain.circuit import start
from pt_language.pretrain.config import PHASES, PretrainConfig
from pt_language.pretrain.episodes import LABEL, TEMPLATES
from pt_language.pretrain.material import END, Material, read_material
from pt_language.pretrain.measure import measure

MARKED = (" output", " label", " answer", "answer", " class")
"""Words whose second next token is an answer in most templates; the tokenizer has a token for each."""
ROUNDS = (100, 400)
"""Episodes of a measurement on the way, and at the end."""


def build(config: PretrainConfig) -> LlamaForCausalLM:
    """A Llama with tied embeddings."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=config.inner,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            head_dim=config.head_size,
            max_position_embeddings=config.context,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=None,
            attention_dropout=0.0,
            rope_parameters={"rope_type": "default", "rope_theta": 1e8},
        )
    )


def train(config: PretrainConfig, material: Material, keep: Callable[[LlamaForCausalLM, int, float], str]) -> None:
    """Train, and hand (model, steps done, mean loss) to `keep` every `keep_every` steps and at the end; it returns what to print.

    Raises:
        NonFiniteError: the loss became NaN or infinite.
    """
    torch.manual_seed(config.seed)
    model = build(config).train()
    encode = material.seen.encode
    frequent = [0, *(token for template, _ in TEMPLATES for token in encode(template.replace("{}", "")))]
    start(model, material.seen.documents, [encode(word)[-1] for word in MARKED], frequent, config.seed)
    groups = decayed(model.named_parameters(), config.weight_decay)
    optimiser = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))
    accuracies: list[float] = []
    started = time.monotonic()

    def rate(step: int) -> float:
        warm = min(1.0, (step + 1) / config.warmup)
        return config.lr * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / config.steps)))

    def loss_of(step: int) -> Tensor:
        phase = [one for one in PHASES if step >= one.start * config.steps][-1]
        rows = max(2, config.tokens_per_step // phase.length)
        tokens, marks = material.seen.batch(rows, phase, random.Random(f"{config.seed}-{step}"))
        hidden = model.model(input_ids=tokens).last_hidden_state[:, :-1]
        mark, target = marks[:, 1:], tokens[:, 1:]
        asked = mark > 0  # (rows, length - 1): only there a distribution over the vocabulary is computed
        mark, target = mark[asked], target[asked]
        logits = model.lm_head(hidden[asked])
        accuracies.append(float((logits.argmax(-1) == target)[mark == LABEL].float().mean()))
        weight = torch.where(mark == LABEL, config.label_weight, 1.0)
        return (F.cross_entropy(logits, target, reduction="none") * weight).sum() / weight.sum()

    def after(done: int, losses: list[float]) -> None:
        if done % 50 == 0:
            told = f"loss {np.mean(losses[-50:]):.3f}, label accuracy {np.nanmean(accuracies[-50:]):.3f}"
            tqdm.write(f"step {done}: {told} ({time.monotonic() - started:.0f} s)")
        if done % config.keep_every == 0 or done == config.steps:
            model.eval()
            tqdm.write(f"step {done}: {keep(model, done, float(np.mean(losses[-100:])))}")
            model.train()

    descend(loss_of, optimiser, config.steps, rate=rate, clip=(model.parameters(), 1.0), after=after)


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, card: dict[str, Any], out: Path) -> None:
    """A folder in the hub's layout with fp16 weights, and the recipe beside them."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {n: t.half().contiguous() for n, t in model.state_dict().items() if n != "lm_head.weight"}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads(model.config.to_json_string(use_diff=True))
    config |= {"architectures": ["LlamaForCausalLM"], "dtype": "float16"}
    (out / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    tokenizer.save(str(out / "tokenizer.json"))
    special = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "model_max_length": model.config.max_position_embeddings,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(special, indent=1) + "\n", encoding="utf-8")
    write_recipe(out / "recipe.json", card)


def pretrain(config: PretrainConfig, out: Path) -> dict[str, Any]:
    """Train the model and write it to the folder `out`; returns what recipe.json holds.

    Raises:
        UserError: `out` exists and is not a folder.
        NonFiniteError: the loss became NaN or infinite.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give the folder that the model is written to")
    material = read_material(config.vocabulary)
    started = time.monotonic()
    card: dict[str, Any] = {
        "format_version": 1,
        "data": "documentation strings and language reference of the Python standard library; labelled episodes made of them",
        "held_out_modules": list(HELD_OUT),
        "recipe": asdict(config),
        "versions": versions("torch", "transformers", "tokenizers"),
    }

    def keep(model: LlamaForCausalLM, done: int, loss: float) -> str:
        rounds = ROUNDS[done == config.steps]
        found = {name: round(value, 4) for name, value in measure(model, material, rounds).items()}
        card["parameters"] = sum(p.numel() for p in model.parameters())
        card["steps_done"] = done
        card["results"] = {"loss": round(loss, 4), **found}
        card["seconds"] = round(time.monotonic() - started)
        save(model, material.tokenizer, card, out)
        return ", ".join(f"{name.removeprefix('held out, ')} {value:.3f}" for name, value in found.items())

    train(config, material, keep)
    return card
