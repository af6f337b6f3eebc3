"""The Keyword Transformer (Berg, O'Connor, Cruz, Interspeech 2021) with the front end its weights were trained on.

    wave (16000,) in [-1, 1] -> 98 frames of 480 samples, hop 160, windowed -> |DFT| (244 bins) -> mel (80) -> log -> DCT (40)
        -> standardised -> linear (64) -> class token in front -> + positions (99) -> post-norm blocks -> 98 frame outputs

A folder holds config.json, frontend.npz and model.safetensors. Logits are compared with those of the reference runtime in the tests.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pt_core.errors import UserError
from torch import Tensor, nn
from torch.nn import functional as F

HOP = 160


@dataclass(frozen=True)
class KwtFront:
    """MFCC by the stored matrices; segments are one second long. Attributes as stored in frontend.npz; `floor` of the logarithm."""

    tensors: Mapping[str, Tensor]
    floor: float
    shift: float
    rate: int = 16_000

    def __call__(self, wave: Tensor) -> Tensor:
        """(samples,) -> (segment, 98, 40); the last second is filled with zeros."""
        count = self.count(len(wave))
        rows = F.pad(wave.float(), (0, count * self.rate - len(wave))).view(count, self.rate)
        t = self.tensors
        frames = rows.unfold(1, len(t["window"]), HOP) * t["window"]
        size = ((frames @ t["dft_re"].T) ** 2 + (frames @ t["dft_im"].T) ** 2).sqrt()
        mel = (size @ t["mel"].T).clamp(min=self.floor).log()
        return (mel @ t["dct"].T - self.shift) * t["norm_scale"]

    def count(self, samples: int) -> int:
        """Segments of a wave of this length."""
        return max(1, math.ceil(samples / self.rate))

    @property
    def shape(self) -> tuple[int, int]:
        return (self.rate - len(self.tensors["window"])) // HOP + 1, len(self.tensors["norm_scale"])

    @property
    def seconds(self) -> float:
        """Length of a segment."""
        return 1.0

    def describe(self) -> Mapping[str, Any]:
        total = hashlib.sha256()
        for name in sorted(self.tensors):
            total.update(self.tensors[name].numpy().tobytes())
        return {"features": "kwt mfcc", "rate": self.rate, "matrices": total.hexdigest()[:16]}


class KwtBlock(nn.Module):
    """x = norm1(x + attn(x)); x = norm2(x + mlp(x)); q, k, v without bias."""

    def __init__(self, dim: int, heads: int, inner: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.attn = nn.ModuleDict(
            {**{name: nn.Linear(dim, dim, bias=False) for name in "qkv"}, "proj": nn.Linear(dim, dim)}
        )
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=eps), nn.LayerNorm(dim, eps=eps)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, inner), "fc2": nn.Linear(inner, dim)})

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.attn[name](x).unflatten(2, (self.heads, -1)).transpose(1, 2) for name in "qkv")
        read = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.attn["proj"](read))
        return self.norm2(x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](x), approximate="tanh")))  # type: ignore[no-any-return]


class Kwt(nn.Module):
    """Parameters at width d, inner I, N blocks, T tokens, C classes: 42 d + T d + N (4 d^2 + 6 d + 2 d I + I) + C (d + 1)."""

    def __init__(self, config: Mapping[str, Any], coefficients: int) -> None:
        super().__init__()
        dim = int(config["dim"])
        self.proj = nn.Linear(coefficients, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, int(config["tokens"]), dim))
        self.blocks = nn.ModuleList(
            KwtBlock(dim, int(config["heads"]), int(config["mlp"]), float(config["layer_norm_eps"]))
            for _ in range(int(config["layers"]))
        )
        self.head = nn.Linear(dim, len(config["labels"]))

    def tokens(self, features: Tensor) -> Tensor:
        """(B, 98, 40) -> (B, 99, dim), the class token first."""
        x = self.proj(features)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, features: Tensor) -> Tensor:
        """(B, 98, 40) -> (B, 98, dim): frame outputs."""
        return self.tokens(features)[:, 1:]

    def classify(self, features: Tensor) -> Tensor:
        """(B, 98, 40) -> (B, classes) logits."""
        return self.head(self.tokens(features)[:, 0])  # type: ignore[no-any-return]


def load_kwt(folder: Path, config: Mapping[str, Any]) -> tuple[Kwt, KwtFront]:
    """Network and front end from a folder.

    Raises:
        UserError: a file is missing or does not fit.
    """
    from safetensors.torch import load_file

    try:
        with np.load(folder / "frontend.npz", allow_pickle=False) as arrays:
            tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        front = KwtFront(tensors, float(config["log_floor"]), float(config["norm_sub"]))
        weights = load_file(folder / "model.safetensors")
        model = Kwt(config, front.shape[1])
        shaped = {name: t.reshape(model.state_dict()[name].shape) for name, t in weights.items()}
        model.load_state_dict(shaped)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder} holds no keyword transformer ({reason}); expected config.json, frontend.npz, model.safetensors"
        ) from None
    return model, front
