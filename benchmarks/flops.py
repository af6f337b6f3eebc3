"""Operations of prompt methods on ViT-B/16, counted on meta tensors: deterministic, no weights, no time.

    python -m benchmarks.flops

Like with like: every forward pass here, the frozen one included, computes all tokens of the last block, unless a row says
"pruned": then the last block has a query, an output projection and an MLP for the class token only, which is what a head
on that token needs. Operations are 2 per multiply-add of matrix products, convolutions and attention; nothing else is
counted. Heads are left out. Beside every count stands what a pencil gives; tests/vision/test_flops.py holds them equal.

With L blocks of width d (MLP 4 d), T tokens, p prompts and a batch of B images:

    frozen            B (2 N d c + L (24 T d^2 + 4 T^2 d))       N patches of c values
    VPT-deep adds     L (4 p d^2 + B 4 T p d)                    keys and values of the prompts once per batch
      prompts per row L B (4 p d^2 + 4 T p d)
      cached          L B 4 T p d                                their keys and values are computed beforehand
      concatenated    L B (24 p d^2 + 4 d ((T + p)^2 - T^2))
    DVPT adds         the same as concatenated, and per block    B (4 (T + p) d r + 4 p N r)   (variant `paper`)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pt_core import Method
from pt_core.kernels import flop_counter, reference_kernels
from pt_core.run.tasks.classification import Classification
from pt_vision.adapters.base import VisionBackbone
from pt_vision.backbones import load_backbone
from pt_vision.methods.classification.dvpt import DVPT, DVPTConfig
from pt_vision.methods.classification.vpt import VPT, VPTConfig

from benchmarks._harness import write

MODEL = "vit_base_patch16_224"
CLASSES = 10
PROMPTS = 100
BATCHES = (1, 4, 16)
CLASS_ONLY = ("class",)
Read = tuple[str, ...] | None


@dataclass(frozen=True)
class Sizes:
    """What the formulas need of a ViT."""

    blocks: int
    width: int
    tokens: int
    patches: int
    values: int
    """Input values per patch."""

    @classmethod
    def of(cls, network: VisionBackbone) -> Sizes:
        patches = network.grid[0] * network.grid[1]
        values = 3 * network.patch_size[0] * network.patch_size[1]
        return cls(network.depth, network.dim, network.num_prefix + patches, patches, values)

    def frozen(self, batch: int) -> int:
        block = 24 * self.tokens * self.width**2 + 4 * self.tokens**2 * self.width
        return batch * (2 * self.patches * self.width * self.values + self.blocks * block)

    def vpt(self, batch: int, prompts: int, projections: int) -> int:
        """What VPT-deep adds; `projections`: 0 cached, 1 shared by the batch, `batch` for prompts per row."""
        width = self.width
        return self.blocks * (projections * 4 * prompts * width**2 + batch * 4 * self.tokens * prompts * width)

    def concatenated(self, batch: int, prompts: int) -> int:
        longer = (self.tokens + prompts) ** 2 - self.tokens**2
        return self.blocks * batch * (24 * prompts * self.width**2 + 4 * self.width * longer)

    def dvpt(self, batch: int, prompts: int, latent: int, dynamic: bool = True) -> int:
        """What DVPT adds; `dynamic`: its prompts attend to the own tokens in the bottleneck (variant `paper`)."""
        branch = 4 * (self.tokens + prompts) * self.width * latent
        branch += 4 * prompts * self.patches * latent if dynamic else 0
        return self.concatenated(batch, prompts) + self.blocks * batch * branch

    def pruned(self, batch: int, prompts: int = 0) -> int:
        """What pruning the last block to one token saves: its queries, output projections, MLPs and rows of attention."""
        return batch * (self.tokens - 1) * (20 * self.width**2 + 4 * (self.tokens + prompts) * self.width)


def backbone(name: str = MODEL) -> VisionBackbone:
    """A timm model without weights: tensors with shapes only."""
    return load_backbone(f"timm:{name}", device="meta")


def build(kind: type[Method], config: Any, network: VisionBackbone) -> Any:
    method = kind(config, {"backbone": network}, Classification([f"class {i}" for i in range(CLASSES)]))
    return method.to("meta")


def count(network: VisionBackbone, batch: int, edits: Callable[[], Any] = dict, read: Read = None) -> int:
    """Operations of one forward pass with what `edits()` returns, whose own operations count too."""
    images = torch.zeros(batch, 3, *network.image_size, device="meta")
    with torch.no_grad(), flop_counter() as counter:
        network(images, edits(), read=read)
    return int(counter.get_total_flops())


def vpt(network: VisionBackbone, batch: int, dropout: float = 0.0, read: Read = None) -> int:
    """A training step's forward pass; prompt dropout makes the prompts differ from row to row."""
    method = build(VPT, VPTConfig(prompt_length=PROMPTS, prompt_dropout=dropout), network).train()
    return count(network, batch, lambda: method.edits(batch), read)


def vpt_cached(network: VisionBackbone, batch: int, read: Read = None) -> int:
    """Inference: keys and values of the prompts are computed once, when the prompts are loaded."""
    method = build(VPT, VPTConfig(prompt_length=PROMPTS), network).eval()
    with torch.no_grad():
        edits = network.lower(method.edits(batch))
    return count(network, batch, lambda: edits, read)


def vpt_concatenated(network: VisionBackbone, batch: int) -> int:
    """As in the official code: the prompts run through every block as tokens."""
    with reference_kernels():
        return vpt(network, batch)


def dvpt(network: VisionBackbone, batch: int, config: DVPTConfig) -> int:
    return count(network, batch, build(DVPT, config, network).edits)


def table() -> list[dict[str, Any]]:
    network = backbone()
    sizes = Sizes.of(network)
    rows: list[dict[str, Any]] = []
    for batch in BATCHES:
        frozen = sizes.frozen(batch)

        def row(what: str, flops: int, formula: int, batch: int = batch, frozen: int = frozen, **where: str) -> None:
            rows.append(
                {
                    "batch": batch,
                    "what": what,
                    "last_block": where.get("last_block", "all tokens"),
                    "gflop_per_image": round(flops / batch / 1e9, 3),
                    "gflop_by_formula": round(formula / batch / 1e9, 3),
                    "times_frozen": round(flops / frozen, 4),
                }
            )

        shared, per_row, cached = (frozen + sizes.vpt(batch, PROMPTS, n) for n in (1, batch, 0))
        concatenated = frozen + sizes.concatenated(batch, PROMPTS)
        row("frozen forward", count(network, batch), frozen)
        row("VPT-deep, concatenated", vpt_concatenated(network, batch), concatenated)
        row("VPT-deep, training, no prompt dropout", vpt(network, batch), shared)
        row("VPT-deep, training, prompt dropout (prompts per row)", vpt(network, batch, 0.1), per_row)
        row("VPT-deep, inference, cached keys and values", vpt_cached(network, batch), cached)
        row("DVPT, 50 prompts, r = 20", dvpt(network, batch, DVPTConfig()), frozen + sizes.dvpt(batch, 50, 20))
        less, much_less = sizes.pruned(batch), sizes.pruned(batch, PROMPTS)
        last = {"last_block": "pruned"}
        row("frozen forward", count(network, batch, read=CLASS_ONLY), frozen - less, **last)
        row("VPT-deep, training, no prompt dropout", vpt(network, batch, 0.0, CLASS_ONLY), shared - much_less, **last)
        cached_pruned = vpt_cached(network, batch, CLASS_ONLY)
        row("VPT-deep, inference, cached keys and values", cached_pruned, cached - much_less, **last)
    return rows


def main() -> None:
    rows = table()
    for row in rows:
        print(
            f"batch {row['batch']:3}  {row['what']:53} {row['last_block']:11} {row['gflop_per_image']:8.3f} GFLOP per image"
            f"  (formula {row['gflop_by_formula']:8.3f})  {row['times_frozen']:.4f} x frozen"
        )
    settings = {"backbone": MODEL, "image_size": 224, "prompts": PROMPTS}
    print(write("flops", {"settings": settings}, rows))


if __name__ == "__main__":
    main()
