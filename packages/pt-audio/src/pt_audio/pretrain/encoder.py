"""`pt-audio pretrain`: the small audio encoder, trained on generated sound only.

    loss = masked reconstruction (Audio-MAE: a small decoder predicts the patches that the encoder did not see)
         + which event or phone sounds at the time of each visible patch (binary cross-entropy, head dropped afterwards)
         + which events the clip holds (binary cross-entropy of the stored head)

The last two are ours: a small network on generated sound learns more from them than from reconstruction alone.
"""

from __future__ import annotations

import json
import platform
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from pt_core.run.declare.fields import Depth, Heads, PeakRate, Seed, Steps, Width
from pt_core.run.pretrain.loop import descend
from pt_core.run.pretrain.recipe import write_recipe
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from pt_audio.adapters.logmel import LogMel
from pt_audio.adapters.vit import AudioViT, Block, ViTSizes, sincos_positions
from pt_audio.data import synth
from pt_audio.pretrain.sounds import FRONT, TARGETS, Pool, draw, generate


@dataclass(frozen=True)
class EncoderConfig:
    """Network and training of the built-in encoder."""

    dim: Annotated[Width, Ge(16)] = 128
    depth: Depth = 4
    heads: Heads = 4
    clips: Annotated[int, Ge(8)] = 900
    """Generated clips; half of them hold speech-like sound."""
    steps: Steps = 800
    batch_size: Annotated[int, Ge(2)] = 24
    """Clips per step."""
    keep: Annotated[float, Gt(0), Lt(1)] = 0.3
    """Share of the patches that the encoder sees."""
    lr: PeakRate = 1.5e-3
    seed: Seed = 0


class Pretraining(nn.Module):
    """The encoder with its throw-away parts: mask token, decoder, and the head on single patches."""

    def __init__(self, sizes: ViTSizes, width: int = 64) -> None:
        super().__init__()
        self.encoder = AudioViT(sizes)
        self.narrow = nn.Linear(sizes.dim, width)
        self.mask = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Buffer(sincos_positions(sizes.grid, width)[:, 1:], persistent=False)
        self.decoder = nn.Sequential(Block(width, 4, 4), nn.LayerNorm(width), nn.Linear(width, sizes.patch**2))
        self.norm = nn.LayerNorm(sizes.dim)
        self.when = nn.Linear(sizes.dim, len(TARGETS))

    def forward(self, batch: Tensor, when: Tensor, what: Tensor, keep: Tensor) -> dict[str, Tensor]:
        """batch (B, T, F), when (B, time, target), what (B, label), keep (B, kept) -> the three losses."""
        sizes = self.encoder.sizes
        seen = self.encoder(batch, keep)
        time_of = keep // sizes.grid[1]
        asked = self.when(self.norm(seen))
        truth = when.gather(1, time_of[..., None].expand(-1, -1, when.shape[2]))
        patches = F.unfold(batch[:, None], sizes.patch, stride=sizes.patch).transpose(1, 2)
        full = self.mask.expand(len(batch), patches.shape[1], -1)
        narrow = self.narrow(seen)
        full = full.scatter(1, keep[..., None].expand_as(narrow), narrow) + self.positions
        hidden = torch.ones(patches.shape[:2]).scatter(1, keep, 0.0)
        error = (self.decoder(full) - patches).square().mean(2)
        return {
            "reconstruction": (error * hidden).sum() / hidden.sum(),
            "when": F.binary_cross_entropy_with_logits(asked, truth) * 4,
            "what": F.binary_cross_entropy_with_logits(self.encoder.classify(seen), what) * 2,
        }


def pretrain(config: EncoderConfig, out: Path) -> dict[str, Any]:
    """Train, and write config.json, model.safetensors (fp16) and recipe.json to `out`; returns the recipe."""
    started = time.perf_counter()
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    sizes = ViTSizes(FRONT.frames, FRONT.bins, 16, config.dim, config.depth, config.heads, classes=len(synth.LABELS))
    model = Pretraining(sizes)
    pool = generate(config.clips, config.seed + 1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.05, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, config.steps, pct_start=0.1)
    shown: dict[str, Tensor] = {}

    def loss_of(step: int) -> Tensor:
        rows = rng.integers(0, config.clips, config.batch_size)
        batch, when, keep = draw(pool, rows, rng, config.keep, sizes.patch)
        losses = model(batch, when, pool.what[torch.from_numpy(rows)], keep)
        shown.update({name: value.detach() for name, value in losses.items()})
        return torch.stack(list(losses.values())).sum()

    def after(done: int, losses: list[float]) -> None:
        schedule.step()
        if done % 50 == 1:
            tqdm.write(f"{done - 1}: " + ", ".join(f"{name} {value.item():.4f}" for name, value in shown.items()))

    descend(loss_of, optimiser, config.steps, clip=(model.parameters(), 1.0), after=after, shown=shown)
    recipe = {
        "config": asdict(config),
        "front": dict(FRONT.describe()),
        "held_out_tags": tag_score(model.encoder.eval(), generate(60, config.seed + 2)),
        "seconds": round(time.perf_counter() - started),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    save(model.encoder, FRONT, out, recipe)
    return recipe


@torch.no_grad()
def tag_score(encoder: AudioViT, pool: Pool) -> float:
    """Share of (clip, label) pairs of event clips that the stored head tells rightly (0.87 where it always says no)."""
    inputs = torch.stack([FRONT.segments(s)[0] for s in pool.spectrograms[::2]])
    guess = torch.cat([encoder.classify(encoder(part)) for part in inputs.split(8)]) > 0
    return round(float((guess == pool.what[::2].bool()).float().mean()), 4)


def save(encoder: AudioViT, front: LogMel, out: Path, recipe: dict[str, Any] | None = None) -> None:
    """Write an encoder folder; weights in half precision."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().half().contiguous() for name, t in encoder.state_dict().items() if name != "pos_embed"}
    save_file(tensors, out / "model.safetensors")
    described = {"kind": "audiomae", "sizes": asdict(encoder.sizes), "front": asdict(front)}
    (out / "config.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    if recipe is not None:
        write_recipe(out / "recipe.json", recipe)


def small(config: EncoderConfig) -> EncoderConfig:
    """The same in seconds, for tests."""
    return replace(config, dim=16, depth=1, heads=2, clips=8, steps=2, batch_size=2)
