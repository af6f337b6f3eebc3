"""EdgeConv with and without a tensor per edge: operations, memory, time, agreement; and IDPT on cached tokens.

    uv run --group bench python -m benchmarks.pointcloud.edgeconv

Sizes as published: C = 384, G = 128 tokens, k = 20, train mode. Results: benchmarks/results/pointcloud_edgeconv.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings

import torch
from pt_core.data import Batch
from pt_core.kernels import reference_kernels
from pt_core.kernels.flops import flop_counter
from pt_core.run.tasks.classification import Classification
from pt_pointcloud.methods.idpt import IDPT, IDPTConfig
from pt_pointcloud.networks.backbone import PointBackbone
from pt_pointcloud.networks.edgeconv import EdgeConv
from pt_pointcloud.networks.transformer import PointConfig, PointTransformer, init_weights

from benchmarks._harness import alternate, difference, in_own_process, machine, peak_bytes, write

BATCH, TOKENS, DIM, K = 2, 128, 384, 20


def step(fast: bool, conv: EdgeConv, u: torch.Tensor) -> torch.Tensor:
    if fast:
        out = conv(u)
    else:
        with reference_kernels():
            out = conv(u)
    out.square().sum().backward()
    return out


def prepared() -> tuple[EdgeConv, torch.Tensor]:
    torch.manual_seed(0)
    return EdgeConv(DIM, K).train(), torch.randn(BATCH, TOKENS, DIM, requires_grad=True)


def memory(which: str) -> None:
    """Child process: resident bytes before and at the peak of one step."""
    torch.set_num_threads(1)
    conv, u = prepared()
    small = torch.randn(1, TOKENS, DIM, requires_grad=True)
    step(which == "fast", conv, small)
    before, peak = peak_bytes(lambda: step(which == "fast", conv, u))
    print(json.dumps({"bytes": peak - before}))


def edgeconv(rounds: int) -> dict[str, object]:
    conv, u = prepared()
    flops, outputs, gradients = {}, {}, {}
    for name in ("rewritten", "edges"):
        conv.zero_grad()
        u.grad = None
        with flop_counter() as counter:
            outputs[name] = step(name == "rewritten", conv, u).detach()
        flops[name] = counter.get_total_flops()
        gradients[name] = [u.grad.clone(), *(p.grad.clone() for p in conv.parameters())]
    times = alternate({n: (lambda n=n: step(n == "rewritten", conv, u)) for n in ("rewritten", "edges")}, rounds)
    peaks = {n: in_own_process("benchmarks.pointcloud.edgeconv", ["--memory", n])["bytes"] for n in ("fast", "edges")}
    return {
        "case": f"EdgeConv step, batch {BATCH}, G = {TOKENS}, k = {K}, C = {DIM}",
        "flops": flops,
        "flops_ratio": round(flops["rewritten"] / flops["edges"], 4),
        "peak_megabytes": {"rewritten": round(peaks["fast"] / 1e6, 1), "edges": round(peaks["edges"] / 1e6, 1)},
        "peak_ratio": round(peaks["fast"] / peaks["edges"], 4),
        "time_ratio": round(times.ratio("rewritten", "edges"), 4),
        "max_relative_difference": difference(outputs["rewritten"], outputs["edges"]),
        "max_relative_difference_of_gradients": max(
            difference(a, b) for a, b in zip(gradients["rewritten"], gradients["edges"], strict=True)
        ),
    }


def cached(rounds: int) -> dict[str, object]:
    """A training step of IDPT with a fixed class token, from clouds and from the tokens that enter the last block."""
    torch.manual_seed(0)
    net = PointTransformer(PointConfig())
    init_weights(net)
    method = IDPT(
        IDPTConfig(train_class_token=False), {"backbone": PointBackbone(net, "random")}, Classification(list("abc"))
    ).train()
    points, rows = torch.randn(8, 1024, 3) * 0.4, torch.arange(8)
    whole = Batch({"points": points}, rows % 3, rows, list("abcdefgh"))
    frozen = Batch(None, rows % 3, rows, list("abcdefgh"), {"frozen": method.frozen_part(whole).detach()})

    def run(batch: Batch) -> torch.Tensor:
        method.zero_grad()
        torch.manual_seed(0)
        loss = method.training_step(batch).loss
        loss.backward()
        return loss.detach()

    flops = {}
    for name, batch in (("clouds", whole), ("cached", frozen)):
        with flop_counter() as counter:
            run(batch)
        flops[name] = counter.get_total_flops()
    times = alternate({"clouds": lambda: run(whole), "cached": lambda: run(frozen)}, rounds)
    return {
        "case": "IDPT training step with a fixed class token, Point-MAE (C = 384, 12 blocks, G = 64), batch 8",
        "flops": flops,
        "flops_saved": round(flops["clouds"] / flops["cached"], 2),
        "speedup_of_cached_steps": round(times.ratio("clouds", "cached"), 2),
        "spread": round(times.spread("clouds", "cached"), 3),
        "max_relative_difference": difference(run(frozen), run(whole)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", choices=("fast", "edges"))
    arguments = parser.parse_args()
    if arguments.memory:
        memory(arguments.memory)
        sys.exit()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = []
    for measure in (edgeconv, cached):
        rows.append(measure(arguments.rounds))
        print(json.dumps(rows[-1]), flush=True)
    write(
        "pointcloud_edgeconv", {"settings": {"rounds": arguments.rounds}, "machine": {**machine(), "threads": 1}}, rows
    )


if __name__ == "__main__":
    main()
