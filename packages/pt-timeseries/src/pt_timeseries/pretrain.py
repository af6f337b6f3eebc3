"""Step 1 of POND: encoder and classifier are trained on the pooled sources, domains in equal shares; then the encoder is frozen.

Optionally preceded by masked-patch reconstruction (patch Transformer only): a share of the patches is replaced by a learned token and
reconstructed by a linear layer that is thrown away.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from pt_core.data import generator, stable_seed
from pt_core.errors import ConfigError, UserError
from pt_core.run.pretrain.loop import descend
from pt_core.run.pretrain.recipe import versions
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from pt_timeseries.adapters.base import PretrainedHead, SeriesBackbone, check_data, ends_of
from pt_timeseries.adapters.encoder import EncoderConfig, Experts, PatchEncoder, cut, extended
from pt_timeseries.adapters.files import build, write_backbone
from pt_timeseries.data.dataset import WindowDataset
from pt_timeseries.options import EncoderSizes, PretrainOptions

BUILTIN_SUBJECTS = 40
"""Generated subjects of the built-in backbone's recipe; none of them is in the built-in data."""


@dataclass(frozen=True)
class PretrainReport:
    """What came out: the backbone with its classifier, and macro F1 on the sources' validation windows (None without them)."""

    backbone: SeriesBackbone
    config: EncoderConfig
    train_loss: float
    val_macro_f1: float | None
    seconds: float


def pretrain(
    options: PretrainOptions, train: WindowDataset, val: WindowDataset | None, progress: bool = True
) -> PretrainReport:
    """Train a new encoder on normalised windows.

    Raises:
        ConfigError: sizes that do not fit each other or the data.
        NonFiniteError: the loss became NaN or infinite.
    """
    if train.labels is None or train.targets is None:
        raise UserError("pre-training needs labelled sources")
    if options.masked_epochs and options.architecture != "patch":
        raise ConfigError("masked_epochs needs architecture='patch': tsai's networks are pre-trained by labels only")
    channels, length = train.values.shape[1:]
    try:
        sizes = {field.name: getattr(options, field.name) for field in fields(EncoderSizes)}
        config = EncoderConfig(**sizes, channels=channels, length=length, stride=options.patch_stride)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stable_seed(options.seed, "pretrain"))
        backbone = build(options.architecture, config, "pretrain")
        check_data(backbone, train)
        head = nn.Linear(backbone.feature_dim, len(train.classes))
        backbone.module.requires_grad_(True).train()
        if options.masked_epochs:
            _reconstruct(backbone, options, train, progress)
        losses = _supervise(backbone, head, options, train, progress)
    backbone.module.requires_grad_(False).eval()
    backbone.head = PretrainedHead(head.weight.detach(), head.bias.detach(), tuple(train.classes))
    score = None if val is None else macro_f1(backbone, head, val)
    loss = sum(losses[-10:]) / len(losses[-10:])
    return PretrainReport(backbone, config, loss, score, time.perf_counter() - began)


def _batches(train: WindowDataset, steps: int, size: int, *key: int | str) -> list[list[int]]:
    """Rows of every step: a domain is drawn first, then a window of it, so that domains weigh the same."""
    members: dict[str, list[int]] = {}
    for row, name in enumerate(train.domains):
        members.setdefault(name, []).append(row)
    rng = generator(*key)
    rows = list(members.values())
    picked = torch.randint(len(rows), (steps, size), generator=rng).tolist()
    place = torch.rand(steps, size, generator=rng).tolist()
    return [
        [rows[d][int(at * len(rows[d]))] for d, at in zip(ds, places, strict=True)]
        for ds, places in zip(picked, place, strict=True)
    ]


def _descend(
    loss_of: Callable[[int], Tensor],
    parameters: Sequence[Tensor],
    options: PretrainOptions,
    steps: int,
    title: str | None,
) -> None:
    """AdamW; the rate rises over the first twentieth of the steps, under half a cosine."""
    warm = max(1, steps // 20)
    descend(
        loss_of,
        AdamW(parameters, options.lr, weight_decay=options.weight_decay),
        steps,
        rate=lambda k: options.lr * min((k + 1) / warm, 0.5 * (1 + math.cos(math.pi * k / steps))),
        clip=(parameters, 1.0),
        title=title,
    )


def _supervise(
    backbone: SeriesBackbone, head: nn.Linear, options: PretrainOptions, train: WindowDataset, progress: bool
) -> list[float]:
    steps = math.ceil(options.epochs * len(train) / options.batch_size)
    experts = [module for module in backbone.module.modules() if isinstance(module, Experts)]
    losses: list[float] = []
    order = _batches(train, steps, options.batch_size, options.seed, "supervise")
    targets = train.targets
    assert targets is not None

    def loss_of(step: int) -> Tensor:
        pooled = backbone.pool(backbone.encode(train.values[order[step]], {}, None))
        loss = F.cross_entropy(head(pooled), targets[order[step]])
        losses.append(float(loss.detach()))
        return loss + sum(0.01 * layer.load for layer in experts)

    parameters = [*backbone.module.parameters(), *head.parameters()]
    _descend(loss_of, parameters, options, steps, "pretrain" if progress else None)
    return losses


def _reconstruct(backbone: SeriesBackbone, options: PretrainOptions, train: WindowDataset, progress: bool) -> None:
    net = backbone.module
    assert isinstance(net, PatchEncoder)
    config = net.config
    token = nn.Parameter(torch.zeros(config.dim))
    restore = nn.Linear(config.dim, config.channels * config.patch)
    steps = math.ceil(options.masked_epochs * len(train) / options.batch_size)
    order = _batches(train, steps, options.batch_size, options.seed, "mask")

    def loss_of(step: int) -> Tensor:
        series = train.values[order[step]]
        rng = generator(options.seed, "mask", step)
        hidden = torch.rand(len(series), config.tokens(series.shape[-1]), generator=rng) < options.mask_ratio
        there: Tensor | None = None
        if backbone.padded:
            ends = ends_of(series)
            series = extended(series, ends)
            there = torch.arange(hidden.shape[1]) * config.stride < ends[:, None]
            hidden = hidden & there
        tokens = torch.where(hidden[..., None], token, net.patches(series)) + net.position[: hidden.shape[1]]
        for block in net.blocks:
            tokens = block(tokens, there)
        wanted = cut(series, config.patch, config.stride)
        errors = (restore(net.norm(tokens)) - wanted).square().mean(-1)
        return (errors * hidden).sum() / hidden.sum().clamp(min=1)

    parameters = [*net.parameters(), token, *restore.parameters()]
    _descend(loss_of, parameters, options, steps, "masked patches" if progress else None)


@torch.no_grad()
def macro_f1(backbone: SeriesBackbone, head: nn.Module, data: WindowDataset, batch_size: int = 256) -> float:
    """Mean over the classes that occur in the data or are predicted; a class without a hit counts 0."""
    assert data.targets is not None
    blocks = data.values.split(batch_size)
    found = torch.cat([head(backbone.pool(backbone(block))).argmax(-1) for block in blocks])
    scores = []
    for label in set(data.targets.tolist()) | set(found.tolist()):
        hits = int(((found == label) & (data.targets == label)).sum())
        size = int((found == label).sum()) + int((data.targets == label).sum())
        scores.append(2 * hits / size)
    return sum(scores) / len(scores)


def builtin_windows(options: PretrainOptions) -> tuple[WindowDataset, WindowDataset]:
    """(train, val) of the built-in backbone: many generated subjects, the last windows of each for validation."""
    from pt_timeseries.data.dataset import windows_of
    from pt_timeseries.data.division import divide, take
    from pt_timeseries.data.generate import sensor_data

    found = sensor_data([f"p{n}" for n in range(BUILTIN_SUBJECTS)], per_class=24, shift=0.7, seed=1 + options.seed)
    parts = [divide(domain, options.val_fraction, options.seed) for domain in found.items]
    train = windows_of([take(d, kept) for d, (kept, _) in zip(found.items, parts, strict=True)], found.classes, "train")
    val = windows_of([take(d, held) for d, (_, held) in zip(found.items, parts, strict=True)], found.classes, "train")
    statistics = train.statistics()
    return train.scaled(*statistics), val.scaled(*statistics)


def source_windows(options: PretrainOptions) -> tuple[WindowDataset, WindowDataset]:
    """(train, val) of the sources of a scenario, normalised as its runs are."""
    from pt_core.run.declare.options import ClassificationOptions

    from pt_timeseries.data.scenario import load_windows
    from pt_timeseries.tasks.classification import DomainClassification

    assert options.data is not None
    parts = load_windows(options.data, replace(options, target_shots=0), options.seed)  # sources only
    task = DomainClassification.of(ClassificationOptions(), parts["train"])
    return parts["train"].bind(task), parts["val"].bind(task)


def run(options: PretrainOptions, out: Path, progress: bool = True) -> PretrainReport:
    """Pre-train and write the backbone to `out` (.safetensors) with its recipe beside it.

    Raises:
        UserError: `out` has another ending.
        DataError: see `load_windows`.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out} must end in .safetensors")
    train, val = builtin_windows(options) if options.data is None else source_windows(options)
    report = pretrain(options, train, val, progress)
    card = {
        "data": "generated sensor data" if options.data is None else Path(options.data).name,
        "domains": list(dict.fromkeys(train.domains)),
        "recipe": {key: value for key, value in asdict(options).items() if key != "data"},
        "results": {
            "train_loss": round(report.train_loss, 4),
            "val_macro_f1": None if report.val_macro_f1 is None else round(report.val_macro_f1, 4),
        },
        "parameters": sum(tensor.numel() for tensor in report.backbone.module.parameters()),
        "versions": versions("torch", "numpy"),
    }
    write_backbone(report.backbone, options.architecture, report.config, card, out)
    return report


def options_of(values: dict[str, Any]) -> PretrainOptions:
    """Validated options; all problems are reported at once."""
    from pt_core.run.declare.options import build_all

    built: PretrainOptions = build_all({"pretrain": PretrainOptions}, values)["pretrain"]
    return built
