"""Training steps and mixed-batch inference against HF PEFT on the same model, in one process, alternating; agreement beside the times.

    python -m benchmarks.language.peft_speed [--rounds 7] [--threads 1]

The model is a Llama of 4 blocks of width 256 with random weights (values do not change the time). Contenders:
- `prompt`: prompt tuning, B = 16, 100 virtual and 128 own tokens, loss on all own tokens;
- `cpt`: CPT with a context of about 400 tokens, B = 16 queries of 24 tokens;
- `tenants`: next-token logits of a batch of 64 rows of 16 tokens that belong to 1, 8 or 64 tenants: prompts of 16 vectors here (their
  keys and values were computed at load), rank-8 LoRA adapters on q and v with PEFT's mixed-batch inference (`adapter_names`) there;
- `one against 64`: the same batch here with 64 prompts and with one.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from pt_core import Batch, Insert
from pt_core.kernels.flops import flop_counter
from pt_language.adapters.decoder import DecoderBackbone
from pt_language.backbones import load_backbone
from pt_language.methods.cpt import CPT, CPTConfig
from pt_language.methods.prompt_tuning import PromptTuning, PromptTuningConfig
from pt_language.mixing import indexed
from pt_language.tasks.generation import Generation

from benchmarks._harness import Times, alternate, difference, in_own_process, load, machine, peak_bytes, write

VOCABULARY = 1024


def model() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8,
        max_position_embeddings=1024, tie_word_embeddings=True,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval().requires_grad_(False)


def flops(fn: Any) -> int:
    with flop_counter() as counter:
        fn()
    return int(counter.get_total_flops())


def prompt(network: Any, tokenizer: Any, rounds: int, memory: str | None = None) -> dict[str, Any]:
    backbone = DecoderBackbone(copy.deepcopy(network), tokenizer, "benchmark")
    ours = PromptTuning(
        PromptTuningConfig(prompt_length=100, init="normal"), {"backbone": backbone}, Generation("{a} {b}")
    )
    theirs: Any = peft.get_peft_model(
        copy.deepcopy(network), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=100)
    )
    other = theirs.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        ours.prompt.copy_(other)
    ids = torch.randint(1, VOCABULARY, (16, 129), generator=torch.Generator().manual_seed(1))
    inputs = {"ids": ids[:, :1], "mask": torch.ones(16, 1, dtype=torch.long)}
    batch = Batch(inputs, None, torch.arange(16), [str(i) for i in range(16)], {"answer": ids[:, 1:]})
    # PEFT prepends ignored labels and shifts: its loss is over tokens 0 .. 127 of what it is given, the first predicted by the prompt.
    labels = ids.clone()
    labels[:, 0] = -100
    losses: dict[str, torch.Tensor] = {}

    def step_ours() -> None:
        ours.prompt.grad = None
        losses["ours"] = ours.training_step(batch).loss
        losses["ours"].backward()

    def step_theirs() -> None:
        other.grad = None
        losses["theirs"] = theirs(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
        losses["theirs"].backward()

    if memory:
        step_ours() if memory == "ours" else step_theirs()
        before, peak = peak_bytes(step_ours if memory == "ours" else step_theirs)
        return {"activations": peak - before}
    times = alternate({"ours": step_ours, "peft": step_theirs}, rounds)
    peaks = {
        name: in_own_process("benchmarks.language.peft_speed", ["--memory", name])["activations"]
        for name in ("ours", "peft")
    }
    return {
        "peak memory ours / peft": peaks["ours"] / peaks["peft"],
        "setting": "prompt tuning step, B=16, 100 + 128 tokens",
        **summary(times, flops(step_ours), flops(step_theirs)),
        "loss difference": abs(float(losses["ours"].detach() - losses["theirs"].detach())),
        "gradient difference": difference(ours.prompt.grad, other.grad),
    }


def cpt(network: Any, tokenizer: Any, rounds: int) -> dict[str, Any]:
    backbone = DecoderBackbone(copy.deepcopy(network), tokenizer, "benchmark")
    ours = CPT(CPTConfig(gamma=0.95), {"backbone": backbone}, Generation("{a} {b}"))
    codes = [c for i in range(16) for c in (*(1,) * 3, *(2,) * 18, *(3,) * 2, 4, 0)]
    codes = [c + 4 * (n // 25) if c else 0 for n, c in enumerate(codes)]
    rng = torch.Generator().manual_seed(2)
    ids = torch.randint(1, VOCABULARY, (len(codes),), generator=rng)
    ours.set_context(ids, torch.tensor(codes))
    config = peft.CPTConfig(
        task_type="CAUSAL_LM", cpt_token_ids=ids.tolist(), cpt_mask=[1] * len(ids), cpt_tokens_type_mask=codes, num_virtual_tokens=len(ids),
        opt_weighted_loss_type="decay", opt_loss_decay_factor=0.95, opt_projection_epsilon=0.1, opt_projection_format_epsilon=0.1,
        tokenizer_name_or_path=None,
    )  # fmt: skip
    theirs: Any = peft.get_peft_model(copy.deepcopy(network), config)
    other = theirs.prompt_encoder["default"].delta_embedding.weight
    text = torch.randint(1, VOCABULARY, (16, 23), generator=rng)
    answer = torch.randint(1, VOCABULARY, (16, 1), generator=rng)
    inputs = {"ids": text, "mask": torch.ones_like(text)}
    batch = Batch(inputs, None, torch.arange(16), [str(i) for i in range(16)], {"answer": answer})
    whole = torch.cat([text, answer], 1)
    types = torch.tensor([[1] * 3 + [2] * 18 + [3] * 2 + [4]] * 16)
    losses: dict[str, torch.Tensor] = {}

    def step_ours() -> None:
        ours.delta.grad = None
        losses["ours"] = ours.training_step(batch).loss
        losses["ours"].backward()
        ours.project()

    def step_theirs() -> None:
        other.grad = None
        result = theirs(
            input_ids=whole, attention_mask=torch.ones_like(whole), labels=whole.clone(), input_type_mask=types.clone()
        )
        losses["theirs"] = result.loss
        result.loss.backward()

    times = alternate({"ours": step_ours, "peft": step_theirs}, rounds)
    return {
        "setting": f"CPT step, context of {len(ids)} tokens, B=16, 24 own tokens",
        **summary(times, flops(step_ours), flops(step_theirs)),
        "loss difference": abs(float(losses["ours"].detach() - losses["theirs"].detach())),
        "gradient difference": difference(ours.delta.grad, other.grad),
    }


def lora_tenants(network: Any, count: int) -> Any:
    """A copy of the network with `count` unmerged LoRA adapters t0, t1, ... of PEFT."""
    adapted: Any = None
    for number in range(count):
        settings = peft.LoraConfig(r=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        if adapted is None:
            adapted = peft.get_peft_model(copy.deepcopy(network), settings, adapter_name="t0").eval()
        else:
            adapted.add_adapter(f"t{number}", settings)
    return adapted


def tenants(network: Any, tokenizer: Any, count: int, rounds: int) -> dict[str, Any]:
    backbone = DecoderBackbone(copy.deepcopy(network), tokenizer, "benchmark")
    rng = torch.Generator().manual_seed(3)
    prompts = torch.randn(count, 16, 256, generator=rng) * 0.02
    with torch.no_grad():
        bank = backbone.lower({"input": Insert(prompts, at="front", keep_output=True)})
    adapted = lora_tenants(network, count)
    ids = torch.randint(1, VOCABULARY, (64, 16), generator=rng)
    inputs = {"ids": ids, "mask": torch.ones_like(ids)}
    index = torch.arange(64) % count
    names = [f"t{int(i)}" for i in index]

    def run_ours() -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = backbone.prefill(inputs, indexed(bank, index)).extra["logits"]
            return logits

    def run_theirs() -> None:
        with torch.no_grad():
            adapted(input_ids=ids, attention_mask=torch.ones_like(ids), adapter_names=names, logits_to_keep=1)

    def run_alone() -> None:
        with torch.no_grad():
            backbone.prefill(inputs, indexed(bank, torch.zeros(64, dtype=torch.long)))

    times = alternate({"ours": run_ours, "peft lora": run_theirs, "ours, one prompt": run_alone}, rounds)
    alone = torch.stack([rows_alone(backbone, prompts[int(i)], ids[n]) for n, i in enumerate(index.tolist())][:8])
    return {
        "setting": f"64 rows of 16 tokens, {count} tenants",
        "seconds": {name: times.median(name) for name in times.seconds},
        "peft lora / ours": times.ratio("peft lora", "ours"),
        "mixed / one prompt": times.ratio("ours", "ours, one prompt"),
        "spread": times.spread("peft lora", "ours"),
        "tokens per second": {name: round(64 * 16 / times.median(name)) for name in times.seconds},
        "difference from single rows": difference(run_ours()[:8, -1], alone),
    }


def rows_alone(backbone: DecoderBackbone, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """(vocabulary,) last logits of one row behind its own prompt, by concatenation."""
    with torch.no_grad():
        whole = torch.cat([rows, backbone.embed(ids)])[None]
        logits: torch.Tensor = backbone.module(inputs_embeds=whole).logits[0, -1]  # type: ignore[operator]
    return logits


def summary(times: Times, ours: int, theirs: int) -> dict[str, Any]:
    return {
        "seconds": {name: times.median(name) for name in times.seconds},
        "peft / ours": times.ratio("peft", "ours"),
        "spread": times.spread("peft", "ours"),
        "flops ours / peft": ours / theirs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--memory", choices=["ours", "peft"], help="print the activations of one prompt-tuning step, in bytes"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()
    network, tokenizer = model(), load_backbone("builtin:lm_docs").tokenizer
    if options.memory:
        print(json.dumps(prompt(network, tokenizer, 0, options.memory)))
        return
    before = load()
    rows = [prompt(network, tokenizer, options.rounds), cpt(network, tokenizer, options.rounds)]
    rows += [tenants(network, tokenizer, count, options.rounds) for count in (1, 8, 64)]
    for row in rows:
        print(row)
    versions = {"transformers": transformers.__version__, "peft": peft.__version__}
    content = {
        "command": f"python -m benchmarks.language.peft_speed --rounds {options.rounds}",
        "machine": machine() | versions,
        "load": before,
    }
    write("language_peft_speed", content, rows, options.out)


if __name__ == "__main__":
    main()
