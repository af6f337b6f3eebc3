"""A tiny pretrained-looking Transformer backbone, a vector data set and a task, for tests of methods, trainer and artifacts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pt_core.backbone import Add, Backbone, Edit, Features, Insert, Layout
from pt_core.data import Batch, generator
from pt_core.method import Method
from pt_core.task import Evaluator, Predictions, Task


class TinyNet(nn.Module):
    """Two pre-norm attention blocks over the entries of a vector, each embedded as a token."""

    def __init__(self, tokens: int = 4, dim: int = 8, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(1, dim)
        self.position = nn.Parameter(torch.randn(tokens, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(depth))
        self.qkv = nn.ModuleList(nn.Linear(dim, 3 * dim) for _ in range(depth))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, 2 * dim), nn.Tanh(), nn.Linear(2 * dim, dim)) for _ in range(depth)
        )


class TinyBackbone(Backbone):
    """Sites `tokens[l]` and `features`; inserted tokens are concatenated (the reference path)."""

    sites = frozenset({"tokens[l]", "features"})

    def __init__(self, seed: int = 0, tokens: int = 4, dim: int = 8, depth: int = 2) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = TinyNet(tokens, dim, depth)
        super().__init__(net, f"tiny:{seed}", {"size": tokens})
        self.dim, self.depth, self.count = dim, depth, tokens

    def probe(self) -> Tensor:
        return torch.linspace(-1, 1, 2 * self.count).view(2, self.count)

    def encode(self, inputs: Any, edits: Mapping[str, tuple[Edit, ...]], read: frozenset[str] | None) -> Features:
        net = self.module
        assert isinstance(net, TinyNet)
        hidden = net.embed(inputs[..., None].to(net.position.dtype)) + net.position
        kept = 0
        for layer in range(self.depth):
            added = 0
            for edit in edits.get(f"tokens[{layer}]", ()):
                layout = Layout((("prompt", kept), ("token", self.count)))
                if isinstance(edit, Insert):
                    prompt = edit.tokens if isinstance(edit.tokens, Tensor) else edit.tokens(hidden, layout)
                    prompt = prompt.to(hidden.dtype).expand(hidden.shape[0], *prompt.shape[-2:])
                    hidden = torch.cat([prompt, hidden], 1)
                    added += 0 if edit.keep_output else prompt.shape[1]
                    kept += prompt.shape[1] if edit.keep_output else 0
                else:
                    hidden = edit.fn(hidden, layout) + (hidden if isinstance(edit, Add) else 0)  # type: ignore[union-attr]
            q, k, v = net.qkv[layer](net.norms[layer](hidden)).chunk(3, -1)
            hidden = hidden + F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
            hidden = (hidden + net.mlp[layer](hidden))[:, added:]
        return Features(hidden, Layout((("prompt", kept), ("token", self.count))))


class Vectors:
    """Labelled vectors around class centres; class c of domain s is shifted by s."""

    def __init__(
        self,
        size: int = 24,
        classes: int = 3,
        tokens: int = 4,
        seed: int = 0,
        shift: float = 0.0,
        labelled: bool = True,
    ) -> None:
        rng = generator("vectors", seed)
        centres = torch.randn(classes, tokens, generator=generator("centres")) * 1.5
        self.targets = torch.arange(size) % classes
        self.values = centres[self.targets] + 0.5 * torch.randn(size, tokens, generator=rng) + shift
        self.ids: Sequence[str] = [f"v{seed}-{i}" for i in range(size)]
        self.labels: Sequence[int] | None = self.targets.tolist() if labelled else None

    def __len__(self) -> int:
        return len(self.ids)

    def sample(self, index: int, *, epoch: int | None, seed: int) -> Tensor:
        return self.values[index]

    def collate(self, index: Sequence[int], samples: Sequence[Any]) -> Batch:
        rows = torch.tensor(index, dtype=torch.long)
        target = self.targets[rows] if self.labels is not None else None
        return Batch(torch.stack(list(samples)), target, rows, [self.ids[i] for i in index])

    def identity(self) -> str:
        return hashlib.sha256(self.values.numpy().tobytes()).hexdigest()


class _Accuracy(Evaluator):
    def __init__(self) -> None:
        self.totals = torch.zeros(3, dtype=torch.float64)

    def update(self, predictions: Predictions, batch: Batch) -> None:
        logits = predictions["logits"]
        right = (logits.argmax(-1) == batch.target).sum()
        loss = F.cross_entropy(logits, batch.target, reduction="sum")
        self.totals += torch.stack([right, loss, torch.tensor(len(batch))]).double()

    def compute(self) -> dict[str, float]:
        import torch.distributed as dist

        totals = self.totals.clone()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(totals)
        right, loss, count = totals.tolist()
        return {"accuracy": right / count, "nll": loss / count, "count": count}


class ToyTask(Task):
    """Plain classification without further libraries."""

    name = "toy"
    select: tuple[str, Literal["max", "min"]] = ("accuracy", "max")

    def __init__(self, classes: int = 3) -> None:
        self.outputs = classes

    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, int]:
        return F.cross_entropy(output, batch.target), len(batch)

    def predict(self, output: Any) -> Predictions:
        return {"logits": output}

    def evaluator(self) -> Evaluator:
        return _Accuracy()

    def records(self, predictions: Predictions, batch: Batch) -> list[dict[str, Any]]:
        best = predictions["logits"].argmax(-1).tolist()
        return [{"id": i, "predicted": p} for i, p in zip(batch.ids, best, strict=True)]

    def to_json(self) -> dict[str, Any]:
        return {"classes": self.outputs}


class TinyMethod(Method):
    """A prompt in front of every block and a linear head: the smallest real method, base of the toys in the tests."""

    length = 2

    def __init__(self, config: Any, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        self.prompt = nn.Parameter(torch.randn(self.backbone.depth, self.length, self.backbone.dim) * 0.1)
        self.head = nn.Linear(self.backbone.dim, task.outputs)

    def logits(self, inputs: Tensor) -> Tensor:
        edits = {f"tokens[{layer}]": Insert(self.prompt[layer]) for layer in range(self.backbone.depth)}
        result: Tensor = self.head(self.backbone(inputs, edits).tokens.mean(1))
        return result

    def forward(self, batch: Batch) -> Tensor:
        return self.logits(batch.inputs)
