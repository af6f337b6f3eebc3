"""What a method costs on a backbone, counted before anything runs: tokens, operations, parameters, kept activations.

A copy of the method runs on fake tensors: meta tensors (shapes without values) that answer to the name of a CPU tensor,
so that the same operators are chosen as in a real run; attention runs fused there and is counted by
`pt_core.kernels.flops`. Weights are not needed: a backbone built under `torch.device("meta")` will do.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from pt_core.backbone import Backbone, Edit, Insert, KeyValue, Layout
from pt_core.data import Batch, generator, map_tensors
from pt_core.errors import UserError
from pt_core.kernels.flops import flop_counter
from pt_core.method import Method
from pt_core.run.use.load import build_method

if TYPE_CHECKING:
    from pt_core.run.declare.modality import Modality
    from pt_core.run.declare.spec import RunSpec


@dataclass(frozen=True)
class Budget:
    """Cost of one method on one backbone.

    Operations are those of the whole batch: 2 per multiply-add of matrix products, convolutions and attention, nothing
    for the rest.

    Attributes:
        method: class name.
        batch_size: samples in the counted batch.
        tokens: tokens per sample that leave the frozen backbone, where there is one.
        prompts: site -> prompt tokens inserted there per sample, in a training step.
        tuned: values that the method tunes.
        backbone: values of the frozen backbones.
        frozen_flops: forward of the untouched backbone that reads what the method reads of it in a prediction (the class token alone
            needs less of the last block than all tokens do); 0 without a backbone.
        forward_flops: `predict_step`, with what depends on the prompts alone already computed; where answers are searched token by
            token, one forward pass over given answers.
        step_flops: `training_step` and its backward pass.
        activation_bytes: upper bound of what the forward pass keeps for the backward pass, without weights and inputs.
        cached_step_flops, cached_activation_bytes: the same for a step that reads the method's frozen part from the
            feature cache; None where it has none.
    """

    method: str
    batch_size: int
    tokens: int | None
    prompts: Mapping[str, int]
    tuned: int
    backbone: int
    frozen_flops: int
    forward_flops: int
    step_flops: int
    activation_bytes: int
    cached_step_flops: int | None = None
    cached_activation_bytes: int | None = None

    @property
    def overhead(self) -> float:
        """Forward with the method as a multiple of the frozen forward; nan without a backbone."""
        return self.forward_flops / self.frozen_flops if self.frozen_flops else math.nan

    def to_json(self) -> dict[str, Any]:
        overhead = None if math.isnan(self.overhead) else self.overhead
        return {**dataclasses.asdict(self), "prompts": dict(self.prompts), "overhead": overhead}

    def table(self) -> str:
        """A short table; operations per sample."""
        percent = 100 * self.tuned / max(self.backbone, 1)
        share = f" ({percent:.3g}% of the backbone's {self.backbone:,})" if self.backbone else ""
        rows = [
            ("batch", f"{self.batch_size} samples"),
            ("tokens per sample", self._token_text()),
            ("tuned parameters", f"{self.tuned:,}{share}"),
            ("frozen forward", f"{_si(self.frozen_flops / self.batch_size)}FLOP per sample"),
            ("forward", self._flop_text(self.forward_flops)),
            ("training step", self._flop_text(self.step_flops)),
            ("activations", f"at most {_si(self.activation_bytes)}B kept for the backward pass (upper bound)"),
        ]
        if self.cached_step_flops is not None and self.cached_activation_bytes is not None:
            text = f"{self._flop_text(self.cached_step_flops)}; at most {_si(self.cached_activation_bytes)}B kept"
            rows += [("cached step", text), ("", "once the features are cached (no augmentation)")]
        return "\n".join(f"{name:<19}{text}" for name, text in rows)

    def _token_text(self) -> str:
        text = "unknown" if self.tokens is None else str(self.tokens)
        lengths, sites = set(self.prompts.values()), len(self.prompts)
        if not lengths:
            return text
        where = f"{sites} sites" if sites > 1 else next(iter(self.prompts))
        if len(lengths) > 1:
            return f"{text}, and {sum(self.prompts.values())} prompt tokens over {where}"
        return f"{text}, and {lengths.pop()} prompt tokens at {'each of ' if sites > 1 else ''}{where}"

    def _flop_text(self, flops: int) -> str:
        text = f"{_si(flops / self.batch_size)}FLOP per sample"
        return text + (f", {flops / self.frozen_flops:.3g} x the frozen forward" if self.frozen_flops else "")


def budget(method: Method, batch: Batch, autocast: torch.dtype | None = None) -> Budget:
    """Count the cost of `method` on batches shaped like `batch`; neither is changed, and no value of them is read.

    Args:
        method: on real or meta backbones.
        batch: a labelled batch; its size matters, because prompts shared by the batch cost their share per sample.
        autocast: lower precision of the run, which shrinks the activations.

    Raises:
        UserError: what the method computes depends on the values of its inputs.
    """
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

    try:
        return _Counter(method, batch, autocast).count()
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise UserError(
            f"the cost of {type(method).__name__} depends on input values ({error}); it cannot be counted"
        ) from None


def method_budget(modality: Modality, spec: RunSpec, classes: int) -> Budget:
    """The budget of a resolved run, for as many samples as one process takes through the network at once.

    Neither data nor weights are read: the modality gives an example of both.
    """
    micro = math.ceil(spec.train.batch_size / spec.train.accumulate)
    backbones, task, batch = modality.example(spec, classes, micro)
    with torch.random.fork_rng(devices=[]):
        method = build_method(modality.registry, spec.method, spec.config, spec.hosts, backbones, task)
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(spec.train.precision)
    return budget(method, batch, precision)


class _Counter:
    """A fake copy of a method and a batch, and the passes that are counted."""

    def __init__(self, method: Method, batch: Batch, autocast: torch.dtype | None) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode

        # Index tensors and the like stay real: whoever checks their range reads values.
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.autocast = autocast
        self.fakes: dict[int, Tensor] = {}
        self.original = method
        self.method = self._copy(method)
        self.batch = dataclasses.replace(batch, inputs=map_tensors(batch.inputs, self._fake))

    def _fake(self, tensor: Tensor) -> Tensor:
        with self.mode, torch.no_grad():
            fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
        return self.fakes.setdefault(id(tensor), fake)

    def _copy(self, method: Method) -> Method:
        """deepcopy, with the memo telling it that every tensor has been copied already."""
        memo: dict[int, Any] = {}
        for root in (method, *(backbone.module for backbone in method.backbones.values())):
            for name, tensor in _tensors(root):
                fake = self._fake(tensor)
                memo[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if name == "parameter" else fake
        return copy.deepcopy(method, memo)

    def count(self) -> Budget:
        tokens = self._tokens()
        watched = _Prompts()
        for backbone in self.method.backbones.values():
            watched.watch(backbone)
        step, kept = self._step(self.batch)
        prompts = dict(watched.lengths)
        cached_step, cached_kept = self._cached()
        watched.reads.clear()
        forward = self._forward()
        watched.reading = watched.reads[-1] if watched.reads else None
        frozen = self._frozen()
        return Budget(
            method=type(self.method).__name__,
            batch_size=len(self.batch),
            tokens=tokens,
            prompts=prompts,
            tuned=self.original.parameter_count(),
            backbone=frozen_count(self.original),
            frozen_flops=frozen,
            forward_flops=forward,
            step_flops=step,
            activation_bytes=kept,
            cached_step_flops=cached_step,
            cached_activation_bytes=cached_kept,
        )

    @contextmanager
    def _run(self) -> Iterator[None]:
        # A dropout mask drawn here must not move the generator of the caller.
        cast = torch.autocast("cpu", self.autocast) if self.autocast is not None else nullcontext()
        with torch.random.fork_rng(devices=[]), self.mode, cast:
            yield

    def _tokens(self) -> int | None:
        with self._run(), torch.no_grad():
            features = self.method.untouched(self.batch)
        return None if features is None else len(features.layout)

    def _frozen(self) -> int:
        with self._run(), torch.no_grad(), flop_counter() as counter:
            features = self.method.untouched(self.batch)
        return 0 if features is None else int(counter.get_total_flops())

    def _forward(self) -> int:
        self.method.eval()
        with self._run(), torch.no_grad():
            self._predict()  # keeps what depends on the prompts alone
            with flop_counter() as counter:
                self._predict()
        return int(counter.get_total_flops())

    def _predict(self) -> None:
        if self.method.task.generates:
            self.method(self.batch)
            return
        self.method.predict_step(self.batch, lambda sample: generator("budget", sample))

    def _step(self, batch: Batch) -> tuple[int, int]:
        self.method.train()
        kept = _Kept([*self.fakes.values(), *_all_tensors(batch.extra)])
        with self._run(), flop_counter() as counter:
            with saved_tensors_hooks(kept.pack, kept.unpack):
                loss = self.method.training_step(batch).loss
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
        self.method.zero_grad(set_to_none=True)
        return int(counter.get_total_flops()), kept.bytes

    def _cached(self) -> tuple[int | None, int | None]:
        if self.method.frozen_key() is None:
            return None, None
        with self._run(), torch.no_grad():
            cached = self.method.cached_batch(self.batch)
        return self._step(cached)


@dataclass
class _Prompts:
    """Notes how many prompt tokens are inserted at which site (a site used in several calls counts once), and what every call reads."""

    lengths: dict[str, int] = field(default_factory=dict)
    reads: list[frozenset[str] | None] = field(default_factory=list)
    reading: frozenset[str] | None = None
    """What calls that ask for everything get instead."""

    def watch(self, backbone: Backbone) -> None:
        encode = backbone.encode

        def noting(inputs: Any, edits: Mapping[str, tuple[Edit, ...]], read: frozenset[str] | None) -> Any:
            call: dict[str, int] = {}
            watched = {site: tuple(self._note(site, edit, call) for edit in items) for site, items in edits.items()}
            self.reads.append(read)
            features = encode(inputs, watched, self.reading if read is None else read)
            for site, length in call.items():
                self.lengths[site] = max(length, self.lengths.get(site, 0))
            return features

        setattr(backbone, "encode", noting)  # noqa: B010 (a method of this one object, which mypy would refuse)

    def _note(self, site: str, edit: Edit, call: dict[str, int]) -> Edit:
        def add(tokens: Tensor) -> Tensor:
            call[site] = call.get(site, 0) + tokens.shape[-2]
            return tokens

        if isinstance(edit, KeyValue):
            add(edit.k)
        if isinstance(edit, Insert):
            if isinstance(edit.tokens, Tensor):
                add(edit.tokens)
            else:
                make = edit.tokens

                def noted(hidden: Tensor, layout: Layout) -> Tensor:
                    return add(make(hidden, layout))

                # What a package's function says about itself, such as how many tokens it makes, stays readable.
                return dataclasses.replace(edit, tokens=functools.update_wrapper(noted, make))
        return edit


class _Kept:
    """Sums the distinct storages that autograd saves, without those of weights and inputs."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        self.seen = {tensor.untyped_storage()._cdata: tensor for tensor in known}
        self.bytes = 0

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.seen:
            # The reference keeps the address from being used again; detached, it keeps no graph alive.
            self.seen[storage._cdata] = tensor.detach()
            self.bytes += storage.nbytes()
        return tensor

    def unpack(self, tensor: Tensor) -> Tensor:
        return tensor


def frozen_count(method: Method) -> int:
    """Values of all backbones of a method, each backbone once."""
    distinct = {id(backbone): backbone for backbone in method.backbones.values()}
    return sum(tensor.numel() for backbone in distinct.values() for tensor in backbone.frozen_tensors())


def _tensors(root: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, buffers, and tensors that are plain attributes of a module."""
    for module in root.modules():
        yield from (("parameter", tensor) for tensor in module.parameters(recurse=False))
        yield from (("buffer", tensor) for tensor in module.buffers(recurse=False))
        yield from (("attribute", value) for value in vars(module).values() if isinstance(value, Tensor))


def _all_tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    map_tensors(value, found.append)
    return found


def _si(value: float) -> str:
    """`1.23 G`, three digits and a prefix."""
    for prefix, unit in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= unit:
            return f"{value / unit:.3g} {prefix}"
    return f"{value:.3g} "
