"""VPT-deep on ViT-S/16 at 224 pixels against the usual implementation, which concatenates prompts and tokens.

    python -m benchmarks.vpt_deep [--prompts 10 50 100 200] [--batch 16] [--rounds 7] [--threads 2]

Takes about 6 minutes on two free cores, 11 with one thread.

The peer is written out below: a loop over timm's own blocks that puts the prompts of each layer between class token and
patches, runs the block and lets the next layer's prompts take their place, as in the official code. Both sides use the
same weights (random: values do not change the time), prompts, head, images and SDPA. Contenders alternate in one process.
Largest differences of logits and of prompt gradients, relative to the largest reference value, stand beside the times;
peak memory is measured in a process per contender. `frozen` is timm's own forward pass of the untouched network, all
tokens computed, to be compared with `pt, all tokens`; `pt` computes the last block for the class token only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from pt_core import Batch
from pt_core.run.tasks.classification import Classification
from pt_vision.adapters import adapt
from pt_vision.methods.classification.vpt import VPT, VPTConfig
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks._harness import alternate, difference, in_own_process, load, machine, peak_bytes, write

MODEL = "vit_small_patch16_224"
CLASSES = 100


class Concatenated(nn.Module):
    """VPT-deep the usual way: prompts (layer, prompt, dim) are tokens of every block."""

    def __init__(self, network: Any, prompts: Tensor, head: nn.Linear, dropout: float) -> None:
        super().__init__()
        self.network = [network]  # not a child: frozen
        self.prompts = nn.Parameter(prompts.detach().clone())
        self.head = nn.Linear(head.in_features, head.out_features)
        self.head.load_state_dict(head.state_dict())
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, 224, 224) -> (batch, class)."""
        network, length = self.network[0], self.prompts.shape[1]
        x = network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(images))))
        for layer, block in enumerate(network.blocks):
            prompt = self.dropout(self.prompts[layer].expand(len(x), -1, -1))
            x = block(torch.cat([x[:, :1], prompt, x[:, (1 + length if layer else 1) :]], dim=1))
        return self.head(network.norm(x)[:, 0])


class Setting:
    """Both implementations over one network, with equal values everywhere, and one batch."""

    def __init__(self, prompts: int, batch: int, dropout: float = 0.0) -> None:
        torch.manual_seed(0)
        network: Any = timm.create_model(MODEL, num_classes=0)
        self.backbone = adapt(network, f"timm:{MODEL}")
        task = Classification([str(label) for label in range(CLASSES)])
        self.method = VPT(VPTConfig(prompt_length=prompts, prompt_dropout=dropout), {"backbone": self.backbone}, task)
        self.method.train()
        tokens: Any = self.method.sets[0]
        self.peer = Concatenated(network, tokens.tokens, self.method.head, dropout)  # type: ignore[arg-type]
        self.images = torch.randn(batch, *self.backbone.preprocessing["input_size"])
        target = torch.arange(batch) % CLASSES
        self.batch = Batch(self.images, target, torch.arange(batch), [str(row) for row in range(batch)])
        self.prompts = {"pt": tokens.tokens, "concat": self.peer.prompts}

    def step(self, which: str) -> Tensor:
        """Forward and backward pass of a training step; returns the gradient of the prompts."""
        output = self.method(self.batch) if which == "pt" else self.peer(self.images)
        loss = F.cross_entropy(output, self.batch.target)
        self.method.zero_grad(set_to_none=True)
        self.peer.zero_grad(set_to_none=True)
        loss.backward()
        gradient = self.prompts[which].grad
        assert gradient is not None
        return gradient

    @torch.no_grad()
    def infer(self, which: str) -> Tensor:
        """Logits, or tokens for contenders that have no head."""
        if which == "concat":
            self.peer.eval()
            return self.peer(self.images)
        if which == "frozen":
            return self.backbone.module.forward_features(self.images)  # type: ignore[operator, no-any-return]
        self.method.eval()
        if which == "pt":
            return self.method(self.batch)
        edits = self.backbone.lower(self.method.edits(len(self.batch)))
        return self.backbone(self.images, edits).tokens  # "pt, all tokens"


def measure(prompts: int, batch: int, rounds: int, dropout: float) -> list[dict[str, Any]]:
    setting = Setting(prompts, batch, dropout)
    rows = []
    common = {"prompts": prompts, "batch": batch, "prompt_dropout": dropout}
    names = ["concat", "pt"]
    if not dropout:
        gradients = [setting.step(name) for name in names]
        bodies: dict[str, Callable[[], Any]] = {name: partial(setting.infer, name) for name in names}
        bodies |= {name: partial(setting.infer, name) for name in ("pt, all tokens", "frozen")}
        times = alternate(bodies, rounds)
        inference = {
            "mode": "inference",
            **{f"{name.replace(', ', '_').replace(' ', '_')}_s": round(times.median(name), 4) for name in bodies},
            "speedup": round(times.ratio("concat", "pt"), 3),
            "spread": round(times.spread("concat", "pt"), 3),
            "times_frozen": round(times.ratio("pt, all tokens", "frozen"), 3),
            "concat_times_frozen": round(times.ratio("concat", "frozen"), 3),
            "max_relative_difference": float(f"{difference(setting.infer('pt'), setting.infer('concat')):.1e}"),
        }
        rows.append({**common, **inference})
        setting.method.train()
        setting.peer.train()
    times = alternate({name: partial(setting.step, name) for name in names}, rounds)
    step = {
        "mode": "training step",
        **{f"{name}_s": round(times.median(name), 4) for name in names},
        "speedup": round(times.ratio("concat", "pt"), 3),
        "spread": round(times.spread("concat", "pt"), 3),
    }
    if not dropout:  # with dropout the two draw different masks
        step["max_relative_difference"] = float(f"{difference(gradients[1], gradients[0]):.1e}")
    return [*rows, {**common, **step}]


def memory(which: str, mode: str, prompts: int, batch: int, dropout: float) -> dict[str, int]:
    """Resident bytes before a pass, with network and prompts loaded, and at its peak."""
    setting = Setting(prompts, batch, dropout)
    body: Callable[[str], Tensor] = setting.step if mode == "training step" else setting.infer
    body(which)  # what is allocated once, such as thread pools
    setting.method.zero_grad(set_to_none=True)
    setting.peer.zero_grad(set_to_none=True)
    before, peak = peak_bytes(lambda: body(which))
    return {"before": before, "peak": peak}


def add_memory(row: dict[str, Any], threads: int) -> None:
    """Peaks above what network, prompts and images take, in MB."""
    for which in ("concat", "pt"):
        settings = json.dumps([which, row["mode"], row["prompts"], row["batch"], row["prompt_dropout"]])
        used = in_own_process("benchmarks.vpt_deep", ["--threads", str(threads), "--memory", settings])
        row[f"{which}_peak_mb"] = round((used["peak"] - used["before"]) / 1e6)
    row["memory_ratio"] = round(row["concat_peak_mb"] / row["pt_peak_mb"], 3)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="+", default=[10, 50, 100, 200])
    parser.add_argument("--dropout-prompts", type=int, nargs="*", default=[50], help="also with prompt dropout 0.1")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-prompts", type=int, nargs="*", default=[50, 200], help="measure peak memory too")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    if args.memory:
        print(json.dumps(memory(*json.loads(args.memory))))
        return
    before, rows = load(), []
    for dropout, lengths in ((0.0, args.prompts), (0.1, args.dropout_prompts)):
        for prompts in lengths:
            for row in measure(prompts, args.batch, args.rounds, dropout):
                if prompts in args.memory_prompts:
                    add_memory(row, args.threads)
                print(json.dumps(row), flush=True)
                rows.append(row)
    settings = {"backbone": MODEL, "image_size": 224, "rounds": args.rounds, "threads": args.threads}
    head = {"machine": machine(), "load": [before, load()], "settings": settings}
    print(write("vpt_deep", head, rows, args.out))


if __name__ == "__main__":
    main()
