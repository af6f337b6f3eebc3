"""Where does attention in two partitions beat concatenated keys and values? The crossover behind the dispatcher.

    python -m benchmarks.prompt_attention [--threads 1 2] [--repeats 21] [--case NAME] [--out FILE]

Both implementations alternate in one process; `speedup` is time(concatenation) / time(split), above 1 where the split
is faster, with the largest difference of outputs and gradients, relative to the largest reference value, beside it. The
tensors are laid out as a fused qkv projection leaves them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pt_core.kernels._inputs import check
from pt_core.kernels._split import split_attention
from pt_core.kernels.prompt_attention import concat_attention, split_pays
from torch import Tensor

from benchmarks._harness import Times, alternate, difference, load, machine, write

CALM = 0.25  # cells whose ratio spreads further than this were disturbed by other work


class Case(NamedTuple):
    """Sizes of one setting; every row count is tried with every prompt length."""

    name: str
    heads: int
    kv_heads: int
    dim: int
    queries: int
    tokens: int
    causal: bool
    rows: tuple[int, ...]
    prompts: tuple[int, ...]
    per_row: bool = False


CASES = (
    Case("vit-s/16", 6, 6, 64, 197, 197, False, (1, 2, 4, 8, 16, 32), (10, 25, 50, 100, 200)),
    Case("vit-s/16, a prompt per row", 6, 6, 64, 197, 197, False, (4, 16), (10, 50, 200), per_row=True),
    Case("tiny vit, 20 tokens", 4, 4, 32, 20, 20, False, (1, 4, 16, 64), (4, 10, 20, 50, 200)),
    Case("clip text behind a context", 8, 8, 64, 10, 10, True, (10, 100, 400), (5, 10, 17, 64)),
    Case("causal lm", 8, 8, 64, 128, 128, True, (1, 4, 16), (10, 50, 100, 150, 200)),
    Case("causal lm, grouped query", 8, 2, 64, 128, 128, True, (4, 16), (50, 200)),
    Case("decoding one token", 8, 8, 64, 1, 64, True, (1, 4, 16), (10, 50, 200)),
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--case", action="append", help="only cases whose name contains this (default: all)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    rows, before = [], load()
    for threads in args.threads:
        torch.set_num_threads(threads)
        for case in CASES:
            if not args.case or any(part in case.name for part in args.case):
                rows += [
                    {"threads": threads, **row}
                    for row in measure(case, args.repeats, args.device, getattr(torch, args.dtype))
                ]
    summary = judge(rows)
    print(json.dumps(summary, indent=1))
    head = {
        "machine": machine(args.device),
        "load": [before, load()],
        "settings": {"dtype": args.dtype, "repeats": args.repeats},
        "summary": summary,
    }
    print(write("prompt_attention", head, rows, args.out))


def measure(case: Case, repeats: int, device: str, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    for rows, prompt in itertools.product(case.rows, case.prompts):
        torch.manual_seed(0)
        q = fused(rows, case.heads, case.queries, case.dim)
        k, v = (fused(rows, case.kv_heads, case.tokens, case.dim) for _ in range(2))
        near = [torch.randn(rows if case.per_row else 1, case.kv_heads, prompt, case.dim) for _ in range(2)]
        tensors = [t.to(device, dtype).requires_grad_() for t in (q, k, v, *near)]
        seed = torch.randn(rows, case.queries, case.heads, case.dim).transpose(1, 2).to(device, dtype)
        chosen = split_pays(check(*tensors, None, None, case.causal, None))
        for mode in ("forward", "forward+backward"):
            body = partial(run, tensors, case.causal, seed if mode == "forward+backward" else None)
            error, times = compare(body, repeats)
            concat, split = times.median("concat"), times.median("split")
            ratio = times.ratio("concat", "split")
            row = {
                "case": case.name,
                "rows": rows,
                "prompt": prompt,
                "tokens": case.tokens,
                "mode": mode,
                "concat_ms": round(1e3 * concat, 3),
                "split_ms": round(1e3 * split, 3),
                "speedup": round(ratio, 3),
                "spread": round(times.spread("concat", "split"), 2),
                "max_relative_difference": float(f"{error:.1e}"),
                "dispatched_to": "split" if chosen else "concat",
                # What concatenation keeps for the backward pass and two partitions do not.
                "copied_keys_values_mb": round(
                    2e-6 * dtype.itemsize * rows * case.kv_heads * (prompt + case.tokens) * case.dim, 2
                ),
            }
            print(
                f"{case.name:28} rows {rows:4} prompt {prompt:4} {mode:17} concat {1e3 * concat:9.3f} ms"
                f"  split {1e3 * split:9.3f} ms  ratio {ratio:6.3f}  diff {error:.1e}  {row['dispatched_to']}",
                flush=True,
            )
            yield row


def run(tensors: Sequence[Tensor], causal: bool, seed: Tensor | None, kernel: Callable[..., Tensor]) -> list[Tensor]:
    """Output and, if `seed` gives the output's gradient, the gradients of all inputs."""
    if seed is None:
        with torch.no_grad():
            return [kernel(*tensors, causal=causal)]
    out = kernel(*tensors, causal=causal)
    return [out.detach(), *torch.autograd.grad(out, tensors, seed)]


def judge(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How good the dispatcher's choices are: time of the other implementation / time of the chosen; calm cells only."""
    gains: dict[str, list[float]] = {"split": [], "concat": []}
    for row in rows:
        if row["spread"] > CALM:
            continue
        gains[row["dispatched_to"]].append(row["speedup"] if row["dispatched_to"] == "split" else 1 / row["speedup"])
    return {
        f"where {name} was chosen": {
            "cells": len(values),
            "geometric_mean_gain": round(statistics.geometric_mean(values), 3),
            "worst": round(min(values), 3),
            "best": round(max(values), 3),
        }
        for name, values in gains.items()
        if values
    }


def fused(rows: int, heads: int, tokens: int, dim: int) -> Tensor:
    """(rows, heads, tokens, dim) as a view of (rows, tokens, 3, heads, dim), the layout behind a fused projection."""
    return torch.randn(rows, tokens, 3, heads, dim).permute(2, 0, 3, 1, 4)[0].detach()


def compare(body: Callable[[Callable[..., Tensor]], list[Tensor]], repeats: int) -> tuple[float, Times]:
    """Largest relative difference of the results, and the times of `concat` and `split`."""
    kernels = {"concat": concat_attention, "split": split_attention}
    results = [body(kernel) for kernel in kernels.values()]
    error = max(difference(have, want) for want, have in zip(*results, strict=True))

    def timed(kernel: Callable[..., Tensor]) -> None:
        body(kernel)
        if results[0][0].device.type == "cuda":
            torch.cuda.synchronize()

    return error, alternate({name: partial(timed, kernel) for name, kernel in kernels.items()}, repeats, warmup=2)


if __name__ == "__main__":
    main()
