"""Generation: IAPT against unmerged LoRA (IAPT's claim of cheap decoding), and many prompts in one batch through `PromptServer`.

    python -m benchmarks.language.generation_speed [--rounds 7]

The model is the one of `peft_speed`: a Llama of 4 blocks of width 256 with random weights. All contenders run in one process, one after the
other, in changing order; times are CPU seconds of one thread, and ratios are medians over the rounds.

- `phases`: a batch of 8 instructions of 64 tokens, 32 new tokens. Prefill (reading the instruction) and decoding steps apart, through the
  same cache and the same loop. Contenders: the bare model; IAPT (4 tokens per layer); LoRA of PEFT, not merged, rank 8 on all linear layers
  (as many values as IAPT) and on q and v only.
- `tenants`: 64 requests of 16 tokens, 16 new tokens, for 1, 8 and 64 tenants: `PromptServer` with prompts of 16 vectors, against the same
  requests with one prompt, and against PEFT's mixed-batch LoRA (`adapter_names`, rank 8 on q and v).
- `requests`: the first request of a tenant (its prompt is computed) against later ones.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from pt_core import Batch
from pt_core.bridges import transformers as bridge
from pt_language.adapters.decoder import DecoderBackbone
from pt_language.backbones import load_backbone
from pt_language.methods.iapt import IAPT, IAPTConfig
from pt_language.methods.prompt_tuning import PromptTuning, PromptTuningConfig
from pt_language.server import Limits, PromptServer
from pt_language.tasks.generation import Generation
from torch import Tensor

from benchmarks._harness import Times, load, machine, write
from benchmarks.language.peft_speed import VOCABULARY, lora_tenants, model

ROWS, TEXT, NEW = 8, 64, 32
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BOTTLENECK = 76
"""Gives IAPT 157 k values, as many as LoRA of rank 8 on all linear layers has."""


def alternate(contenders: Mapping[str, Callable[[], dict[str, float]]], rounds: int) -> dict[str, Times]:
    """Phase -> CPU seconds per round and contender; the first round is not counted."""
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(-1, rounds):
        order = list(contenders) if number % 2 else list(reversed(contenders))
        for name in order:
            phases = contenders[name]()
            for phase, seconds in phases.items() if number >= 0 else ():
                found.setdefault(phase, {}).setdefault(name, []).append(seconds)
    return {phase: Times(seconds) for phase, seconds in found.items()}


def values(module: Any) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def lora(network: Any, targets: list[str]) -> Any:
    settings = peft.LoraConfig(r=8, target_modules=targets, init_lora_weights=False)
    return peft.get_peft_model(copy.deepcopy(network), settings).eval()


@torch.no_grad()
def phases(network: Any, tokenizer: Any, rounds: int) -> list[dict[str, Any]]:
    backbone = DecoderBackbone(copy.deepcopy(network), tokenizer, "benchmark")
    torch.manual_seed(4)
    method = IAPT(IAPTConfig(bottleneck=BOTTLENECK), {"backbone": backbone}, Generation("{a} {b}")).eval()
    for parameter in method.parameters():
        parameter.mul_(10)  # prompts large enough to matter
    method.numerator.div_(10), method.denominator.div_(10)
    everywhere, queries = lora(network, LINEAR), lora(network, ["q_proj", "v_proj"])
    generator = torch.Generator().manual_seed(5)

    def texts() -> Batch:
        """New instructions every time: IAPT keeps the prompts of those it has met."""
        ids = torch.randint(1, VOCABULARY, (ROWS, TEXT), generator=generator)
        inputs = {"ids": ids, "mask": torch.ones_like(ids)}
        return Batch(inputs, None, torch.arange(ROWS), [str(row) for row in range(ROWS)])

    def run(
        read: Callable[[Batch], tuple[Tensor, Any, Tensor]], module: Any, batch: Batch
    ) -> tuple[Tensor, dict[str, float]]:
        start = time.process_time()
        logits, cache, mask = read(batch)
        middle = time.process_time()
        tokens = [logits[:, -1:].argmax(-1)]
        for _ in range(NEW - 1):
            logits, cache, mask = bridge.step(module, tokens[-1], cache, mask)
            tokens.append(logits[:, -1:].argmax(-1))
        end = time.process_time()
        return torch.cat(tokens, 1), {
            "prefill": middle - start,
            "step": (end - middle) / (NEW - 1),
            "whole": end - start,
        }

    def plain(module: Any) -> Callable[[Batch], tuple[Tensor, Any, Tensor]]:
        def read(batch: Batch) -> tuple[Tensor, Any, Tensor]:
            ids, mask = batch.inputs["ids"], batch.inputs["mask"]
            result = module(input_ids=ids, attention_mask=mask, use_cache=True, logits_to_keep=1)
            return result.logits, result.past_key_values, mask

        return read

    def ours(batch: Batch) -> tuple[Tensor, Any, Tensor]:
        extra = backbone.prefill(batch.inputs, method.edits(batch)).extra
        return extra["logits"], extra["cache"], extra["mask"]

    times = alternate(
        {
            "bare": lambda: run(plain(backbone.module), backbone.module, texts())[1],
            "iapt": lambda: run(ours, backbone.module, texts())[1],
            "lora, all linear": lambda: run(plain(everywhere), everywhere.base_model.model, texts())[1],
            "lora, q and v": lambda: run(plain(queries), queries.base_model.model, texts())[1],
        },
        rounds,
    )
    batch = texts()
    calls = method.calls
    cached = run(ours, backbone.module, batch)[0]
    generator_calls = method.calls - calls
    whole = {**batch.inputs, "ids": batch.inputs["ids"]}
    again: list[Tensor] = []
    for _ in range(NEW):  # the whole text anew for every token
        target = torch.cat([*again, torch.zeros(ROWS, 1, dtype=torch.long)], 1)
        again.append(backbone.target_logits(whole, target, method.edits(batch))[:, -1:].argmax(-1))
    sizes = {
        "bare": 0,
        "iapt": values(method),
        "lora, all linear": values(everywhere),
        "lora, q and v": values(queries),
    }
    return [
        {
            "setting": f"{name}, {ROWS} instructions of {TEXT} tokens, {NEW} new tokens",
            "contender": name,
            "values": sizes[name],
            "seconds": {phase: found.median(name) for phase, found in times.items()},
            "times of the bare model": {phase: found.ratio(name, "bare") for phase, found in times.items()},
            "lora, all linear / this": {phase: found.ratio("lora, all linear", name) for phase, found in times.items()},
            "spread": {phase: found.spread(name, "bare") for phase, found in times.items()},
            "tokens per second": round(ROWS * NEW / times["whole"].median(name)),
            **(
                {
                    "tokens equal to whole passes": float((cached == torch.cat(again, 1)).float().mean()),
                    "generator calls per layer": generator_calls / backbone.depth,
                }
                if name == "iapt"
                else {}
            ),
        }
        for name in sizes
    ]


@torch.no_grad()
def tenants(network: Any, tokenizer: Any, count: int, rounds: int, new: int = 16) -> dict[str, Any]:
    backbone = DecoderBackbone(copy.deepcopy(network), tokenizer, "benchmark")
    server = PromptServer(backbone, Limits(batch=64))
    for number in range(count):
        torch.manual_seed(100 + number)
        method = PromptTuning(
            PromptTuningConfig(prompt_length=16, init="normal"), {"backbone": backbone}, Generation("{a} {b}")
        )
        server.add(f"t{number}", method)
    adapted = lora_tenants(network, count)
    ids = torch.randint(1, VOCABULARY, (64, 16), generator=torch.Generator().manual_seed(6))
    texts, names = ids.tolist(), [f"t{row % count}" for row in range(64)]

    def complete(names: list[str]) -> dict[str, float]:
        start = time.process_time()
        found = server.complete(texts, names, new)
        taken = time.process_time() - start
        assert all(len(one.tokens) == new for one in found), "a row ended early: the work would differ"
        return {"whole": taken}

    def theirs() -> dict[str, float]:
        start = time.process_time()
        mask = torch.ones_like(ids)
        result = adapted(input_ids=ids, attention_mask=mask, use_cache=True, logits_to_keep=1, adapter_names=names)
        for _ in range(new - 1):
            token = result.logits[:, -1:].argmax(-1)
            mask = torch.cat([mask, torch.ones_like(token)], 1)
            result = adapted(
                input_ids=token, attention_mask=mask, past_key_values=result.past_key_values, adapter_names=names
            )
        return {"whole": time.process_time() - start}

    times = alternate(
        {"ours": lambda: complete(names), "one prompt": lambda: complete(["t0"] * 64), "lora": theirs}, rounds
    )["whole"]
    mixed = server.complete(texts[:6], names[:6], new)
    alone = [server.complete([text], [name], new)[0] for text, name in zip(texts[:6], names[:6], strict=True)]
    return {
        "setting": f"64 requests of 16 tokens, 16 new tokens, {count} tenants",
        "tenants": count,
        "seconds": {name: times.median(name) for name in times.seconds},
        "mixed / one prompt": times.ratio("ours", "one prompt"),
        "lora / ours": times.ratio("lora", "ours"),
        "spread": times.spread("ours", "one prompt"),
        "tokens per second": {name: round(64 * new / times.median(name)) for name in times.seconds},
        "rows equal to requests alone": sum(a.tokens == b.tokens for a, b in zip(mixed, alone, strict=True)) / 6,
        "prompts computed": server.prefills,
    }


@torch.no_grad()
def requests(network: Any, tokenizer: Any, rounds: int) -> dict[str, Any]:
    backbone = DecoderBackbone(copy.deepcopy(network), tokenizer, "benchmark")
    server = PromptServer(backbone)
    torch.manual_seed(7)
    method = PromptTuning(
        PromptTuningConfig(prompt_length=200, init="normal"), {"backbone": backbone}, Generation("{a} {b}")
    )
    text = torch.randint(1, VOCABULARY, (16,), generator=torch.Generator().manual_seed(8)).tolist()

    def ask() -> dict[str, float]:
        start = time.process_time()
        server.complete([text], ["t"], 1)
        return {"whole": time.process_time() - start}

    def first() -> dict[str, float]:
        server.add("t", method)  # forgets what was computed
        return ask()

    times = alternate({"first": first, "later": ask}, rounds)["whole"]
    before = server.prefills
    server.add("t", method)
    for _ in range(5):
        ask()
    return {
        "setting": "a request of 16 tokens behind a prompt of 200, one new token",
        "seconds": {name: times.median(name) for name in times.seconds},
        "first / later": times.ratio("first", "later"),
        "prompts computed in five requests": server.prefills - before,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    network, tokenizer = model(), load_backbone("builtin:lm_docs").tokenizer
    before = load()
    rows = [
        *phases(network, tokenizer, options.rounds),
        *(tenants(network, tokenizer, count, options.rounds) for count in (1, 8, 64)),
        requests(network, tokenizer, options.rounds),
    ]
    for row in rows:
        print(row)
    content = {
        "command": f"python -m benchmarks.language.generation_speed --rounds {options.rounds}",
        "machine": machine() | {"transformers": transformers.__version__, "peft": peft.__version__},
        "load": before,
    }
    write("language_generation_speed", content, rows, options.out)


if __name__ == "__main__":
    main()
