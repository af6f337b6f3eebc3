"""What the checks of the conformance suite share: the case, short runs, predictions, fresh processes, comparisons."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pt_core.artifact import read_artifact
from pt_core.backbone import Backbone
from pt_core.data import Batch, Dataset
from pt_core.method import Method, assign_tensors
from pt_core.randomness import seeded
from pt_core.run.declare.options import TrainOptions
from pt_core.run.train.evaluate import evaluate, predict_batch
from pt_core.run.train.rundir import RunDir
from pt_core.run.train.trainer import Trainer
from pt_core.run.train.world import World

PROCESS_LIMIT = 240.0
"""Seconds after which a started process counts as hanging."""


@dataclass(frozen=True)
class BadInput:
    """Something a user may get wrong: `run` has to raise UserError or ValueError with a message that `match` (a regex) finds."""

    name: str
    run: Callable[[], object]
    match: str


@dataclass(frozen=True)
class MethodCase:
    """A method as the suite sees it. A few steps of training have to be enough for every parameter to get gradient.

    Attributes:
        make: builds the method on its tiny backbone; it draws initial values from torch's global generator, which the suite seeds, and
            the backbone has the same weights every time. A module-level function, or a partial of one: other processes import it.
        data: role -> dataset, with labels; predictions are made for `val`, or for `train` where there is none. It can be pickled.
        options: training options of a short run.
        parameters: the number of tuned values, from the method's published formula.
        method_id: `pt-vision/vpt`.
        other_backbone: a backbone of equal shapes and other weights.
        bf16: whether the method trains under bf16 autocast.
        accumulates: False where a stage has its own step, which takes no micro-batches.
        idle: patterns of parameters that are documented to get no gradient.
        tolerance: largest difference of equal things, relative to the largest value; gradients and trained tensors get ten times that.
        bad_inputs: what has to be refused.
    """

    make: Callable[[], Method]
    data: Mapping[str, Dataset]
    options: TrainOptions
    parameters: int
    method_id: str
    other_backbone: Callable[[], Backbone]
    bf16: bool = True
    accumulates: bool = True
    idle: tuple[str, ...] = ()
    tolerance: float = 1e-5
    bad_inputs: tuple[BadInput, ...] = ()


class Killed(BaseException):
    pass


def build(case: MethodCase, seed: int = 0) -> Method:
    """The method with initial values of this seed."""
    with seeded(seed, "init"):
        return case.make()


def train(
    case: MethodCase,
    folder: Path,
    method: Method | None = None,
    *,
    options: TrainOptions | None = None,
    resume: bool = False,
    on_step: Callable[[str, int], None] | None = None,
) -> Method:
    """Train in a run folder of its own; returns the method."""
    method, options = method or build(case), options or case.options
    world = World(options)
    with RunDir(folder, world.main).open(resume) as run:
        run.update({"status": "running"})
        Trainer(method, case.data, options, run, world, on_step).fit(resume)
    return method


def predict(case: MethodCase, method: Method, size: int = 4, order: Sequence[int] | None = None) -> dict[str, Tensor]:
    """Predictions in dataset order, computed in batches of `size` taken in `order`."""
    method.eval()
    order = list(order if order is not None else range(len(samples(case))))
    parts = []
    for start in range(0, len(order), size):
        with torch.no_grad():
            parts.append(predict_batch(method, batch_of(case, order[start : start + size]), 0))
    back = torch.tensor(order).argsort()
    return {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}


def samples(case: MethodCase) -> Dataset:
    return case.data.get("val", case.data["train"])


def batch_of(case: MethodCase, rows: Sequence[int]) -> Batch:
    dataset = samples(case)
    return dataset.collate(list(rows), [dataset.sample(row, epoch=None, seed=0) for row in rows])


def twin(case: MethodCase, method: Method) -> Method:
    """The same tensors in a method, and on a backbone, of its own."""
    twin = build(case, seed=9)
    assign_tensors(twin, copies(method.own_tensors()), twin.own_tensors().keys())
    for own, other in zip(twin.parameters(), method.parameters(), strict=True):
        own.requires_grad_(other.requires_grad)  # what the last stage trained
    return twin


def loss_and_gradients(method: Method, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Of one training step, in train mode with fixed random numbers."""
    method.train()
    parameters = {name: p for name, p in method.named_parameters() if p.requires_grad}
    with seeded(0, "step"):
        loss = method.training_step(batch).loss
    if not loss.requires_grad:
        return loss, {}
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return loss.detach(), {name: g for name, g in zip(parameters, found, strict=True) if g is not None}


def metrics(case: MethodCase, method: Method, world: World) -> dict[str, Tensor]:
    metrics = evaluate(method, samples(case), world, case.options.batch_size, 0).metrics
    return {f"metric {name}": torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()}


def predict_saved(case: MethodCase, folder: Path) -> dict[str, Tensor]:
    artifact, method = read_artifact(folder / "tuned"), build(case, seed=9)
    for role, backbone in method.backbones.items():
        artifact.check_backbone(role, backbone)
    method.restore("predict", artifact.tensors)
    return predict(case, method)


def train_share(case: MethodCase, folder: Path) -> dict[str, Tensor]:
    method = train(case, folder / "two")
    return {**copies(method.own_tensors()), **metrics(case, method, World(case.options))}


def in_processes(
    count: int, work: Callable[[MethodCase, Path], dict[str, Tensor]], case: MethodCase, folder: Path
) -> list[dict[str, Tensor]]:
    """Run `work` in fresh processes that form one gloo world; returns what each of them returned."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = get_context("spawn")
    bare = replace(case, bad_inputs=())  # lambdas there are not pickled
    shared = (count, port, torch.get_num_threads(), work, bare, folder)
    children = [context.Process(target=_child, args=(rank, *shared), daemon=True) for rank in range(count)]
    deadline = time.monotonic() + PROCESS_LIMIT
    try:
        for child in children:
            child.start()
        for child in children:
            child.join(max(0.0, deadline - time.monotonic()))
    finally:
        for child in children:
            if child.is_alive():
                child.kill()
    for rank, child in enumerate(children):
        failed = folder / f"error-{rank}.txt"
        require(not failed.is_file(), f"process {rank} failed:\n{failed.read_text() if failed.is_file() else ''}")
        require(child.exitcode == 0, f"process {rank} ended with {child.exitcode} (negative: hung or was killed)")
    return [load_file(folder / f"result-{rank}.safetensors") for rank in range(count)]


def _child(rank: int, count: int, port: int, threads: int, work: Any, case: MethodCase, folder: Path) -> None:
    torch.set_num_threads(threads)
    if count > 1:
        world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in world.items()}, ACCELERATE_USE_CPU="true")
    try:
        result = work(case, folder)
        save_file({name: t.contiguous() for name, t in result.items()}, folder / f"result-{rank}.safetensors")
    except BaseException:
        (folder / f"error-{rank}.txt").write_text(traceback.format_exc())
    finally:
        if count > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def all_tensors(module: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, those left out of the state dict included."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def changed(before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> list[str]:
    return [name for name in now if name not in before or not same_bytes(before[name], now[name])]


def same_bytes(left: Tensor, right: Tensor) -> bool:
    a, b = left.detach().cpu().contiguous(), right.detach().cpu().contiguous()
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bytes(a), _bytes(b))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8) if tensor.numel() else torch.empty(0)


def require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def require_close(have: Tensor, want: Tensor, tolerance: float, what: str, floor: float = 1e-12) -> None:
    require(have.shape == want.shape, f"{what}: shape {tuple(have.shape)} instead of {tuple(want.shape)}")
    if not want.numel():
        return
    scale = max(float(want.detach().double().abs().max()), floor)
    worst = float((have.detach().double() - want.detach().double()).abs().max())
    require(worst <= tolerance * scale, f"{what} is off by {worst:.3g}, largest value {scale:.3g}")
