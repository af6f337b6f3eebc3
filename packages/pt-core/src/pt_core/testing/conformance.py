"""The conformance suite: what every method of every package has to show, whatever it tunes and however it trains.

A package describes a method once, as a `MethodCase` on a tiny backbone, and runs `CHECKS` over it, one test each::

    @pytest.mark.parametrize("name", CHECKS)
    def test_conformance(name, tmp_path):
        CHECKS[name](CASE, tmp_path)

Every check is a function (case, empty folder) that raises AssertionError with a message that names the tensor or the step. The suite
runs on the CPU. Starting processes costs seconds, so `two_processes` is kept apart, in `SLOW_CHECKS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pt_core.artifact import read_artifact
from pt_core.errors import BackboneMismatch, UserError
from pt_core.kernels import reference_kernels
from pt_core.run.declare.options import build_all
from pt_core.run.train.world import World
from pt_core.saving import card_of, save_artifact
from pt_core.stage import RunContext, Stage, matches
from pt_core.testing._support import (
    BadInput,
    Killed,
    MethodCase,
    all_tensors,
    batch_of,
    build,
    changed,
    copies,
    in_processes,
    loss_and_gradients,
    metrics,
    predict,
    predict_saved,
    require,
    require_close,
    same_bytes,
    samples,
    train,
    train_share,
    twin,
)

__all__ = ["BadInput", "CHECKS", "MethodCase", "SLOW_CHECKS", "check_method"]


def check_declarations(case: MethodCase, folder: Path) -> None:
    """Each stage changes only what it declares, gradient reaches all of that and nothing else, and the backbone stays bit-identical."""
    method = build(case)
    modules = {role: backbone.module for role, backbone in method.backbones.items()}
    frozen = {role: copies(all_tensors(module)) for role, module in modules.items()}
    touched: set[str] = set()
    reached: set[str] = set()

    def note(parameter: Tensor, name: str) -> None:
        if parameter.grad is not None and bool(parameter.grad.any()):
            touched.add(name)

    for name, parameter in method.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: note(p, name))
    plain = method.stages

    def watched(ctx: RunContext) -> Iterator[Stage]:
        before, parameters = copies(method.own_tensors()), dict(method.named_parameters())
        tracks: tuple[str, ...] = ()
        for stage in plain(ctx):
            for name in changed(before, method.own_tensors()):
                require(
                    name not in parameters and matches(name, (*tracks, *stage.tracks)),
                    f"{name!r} changed between stages (before {stage.name!r}) and is not tracked",
                )
            before, tracks = copies(method.own_tensors()), stage.tracks
            touched.clear()
            yield stage
            for name in changed(before, method.own_tensors()):
                declared = stage.trains if name in parameters else stage.tracks
                require(matches(name, declared), f"stage {stage.name!r} changed {name!r} without declaring it")
            for name in touched:
                require(matches(name, stage.trains), f"stage {stage.name!r} gave undeclared {name!r} gradient")
            reached.update(touched)
            before = copies(method.own_tensors())

    def on_step(stage: str, step: int) -> None:
        for role, module in modules.items():
            require(not module.training, f"step {step} of {stage!r} left backbone {role!r} in train mode")
            for name, parameter in module.named_parameters():
                got = parameter.requires_grad or parameter.grad is not None
                require(not got, f"step {step} of {stage!r}: gradient for {name!r} of backbone {role!r}")

    method.stages = watched  # type: ignore[method-assign]
    train(case, folder / "run", method, on_step=on_step)
    for role, module in modules.items():
        lost = changed(frozen[role], all_tensors(module))
        require(not lost, f"training changed {lost} of backbone {role!r}")
    dead = [name for name, p in method.named_parameters() if p.numel() and name not in reached]
    dead = [name for name in dead if not matches(name, case.idle)]
    require(not dead, f"no stage gave gradient to {dead}")


def check_parameter_count(case: MethodCase, folder: Path) -> None:
    """The number of tuned values is the one of the formula, and the method reports it."""
    method = build(case)
    counted = sum(parameter.numel() for parameter in method.parameters())
    require(counted == case.parameters, f"the method has {counted} parameters, its formula gives {case.parameters}")
    told = method.parameter_count()
    require(told == case.parameters, f"parameter_count() is {told}, the formula gives {case.parameters}")


def check_reload(case: MethodCase, folder: Path) -> None:
    """Saved, loaded in another process on a fresh backbone (inference view only), the predictions are the same bytes."""
    method = train(case, folder / "run")
    card = card_of(method, case.method_id)
    save_artifact(folder / "tuned", method, card)
    if is_dataclass(type(method.config)):
        stored = read_artifact(folder / "tuned").card["config"]
        again = build_all({"config": type(method.config)}, stored)["config"]
        require(again == method.config, f"the configuration is not restored from card.json: {asdict(again)}")
    want = predict(case, method)
    (have,) = in_processes(1, predict_saved, case, folder)
    for name, value in want.items():
        require(same_bytes(have[name], value), f"prediction {name!r} differs in a fresh process")


def check_resume(case: MethodCase, folder: Path) -> None:
    """Killed early, in the middle and before the last step, and resumed, a run ends with the same bytes as one never interrupted."""
    options = replace(case.options, checkpoint_every=2)
    seen: list[str] = []
    whole = train(case, folder / "whole", options=options, on_step=lambda stage, step: seen.append(f"{stage}:{step}"))
    for kill in sorted({1, len(seen) // 2, len(seen) - 1} & set(range(1, len(seen)))):
        path, count = folder / f"killed-{kill}", iter(range(1, kill + 1))

        def stop(stage: str, step: int, count: Iterator[int] = count, kill: int = kill) -> None:
            if next(count) == kill:
                raise Killed

        try:
            train(case, path, options=options, on_step=stop)
        except Killed:
            resumed = train(case, path, options=options, resume=True)
            for name, tensor in whole.own_tensors().items():
                same = same_bytes(resumed.own_tensors()[name], tensor)
                require(same, f"{name!r} differs after a kill at {seen[kill - 1]} and resume")


def check_wrong_backbone(case: MethodCase, folder: Path) -> None:
    """Another backbone of equal shapes is refused, naming both; it passes only where the caller insists, with a note."""
    method = train(case, folder / "run")
    save_artifact(folder / "tuned", method, card_of(method, case.method_id))
    artifact, other = read_artifact(folder / "tuned"), case.other_backbone()
    for role, backbone in method.backbones.items():
        require(artifact.check_backbone(role, backbone) == [], f"its own backbone {role!r} is not accepted as it is")
        try:
            artifact.check_backbone(role, other)
        except BackboneMismatch as error:
            known = artifact.card["backbones"][role]["source"] in str(error) and other.source in str(error)
            require(known, f"the refusal does not name both backbones: {error}")
        else:
            raise AssertionError(f"a backbone with other weights was accepted for role {role!r}")
        require(bool(artifact.check_backbone(role, other, allow_mismatch=True)), "an allowed mismatch leaves no note")


def check_fast_path(case: MethodCase, folder: Path) -> None:
    """Predictions, loss and gradients agree with those under `reference_kernels()`."""
    fast = train(case, folder / "run")
    slow = twin(case, fast)
    batch = batch_of(case, range(min(8, len(samples(case)))))
    with reference_kernels():
        want, want_loss, want_gradients = predict(case, slow), *loss_and_gradients(slow, batch)
    have, loss, gradients = predict(case, fast), *loss_and_gradients(fast, batch)
    for name, value in want.items():
        require_close(have[name], value, case.tolerance, f"prediction {name!r} on the fast path")
    require_close(loss, want_loss, case.tolerance, "the loss on the fast path")
    require(gradients.keys() == want_gradients.keys(), "the fast path gives gradient to other tensors")
    largest = max((float(g.abs().max()) for g in want_gradients.values()), default=0.0)
    for name, gradient in want_gradients.items():
        # A gradient that is zero but for rounding has no scale of its own.
        require_close(gradients[name], gradient, 10 * case.tolerance, f"gradient of {name!r}", floor=1e-3 * largest)


def check_bf16(case: MethodCase, folder: Path) -> None:
    """Under bf16 autocast training and predictions stay finite, and the tuned tensors stay in float32."""
    if not case.bf16:
        return
    method = train(case, folder / "run", options=replace(case.options, precision="bf16"))
    for name, tensor in method.own_tensors().items():
        if tensor.is_floating_point():
            require(tensor.dtype == torch.float32, f"{name!r} is kept in {tensor.dtype}")
            require(bool(tensor.isfinite().all()), f"{name!r} is not finite after bf16 training")
    with torch.autocast("cpu", torch.bfloat16):
        result = predict(case, method)
    for name, value in result.items():
        require(bool(value.isfinite().all()), f"prediction {name!r} is not finite in bf16")


def check_independence(case: MethodCase, folder: Path) -> None:
    """The prediction of a sample depends neither on the size of its batch, nor on its place in it, nor on its neighbours; the loss of a
    batch is the mean over its parts, unless the method declares `coupled`."""
    method = train(case, folder / "run")
    count = len(samples(case))
    want = predict(case, method, size=1)
    orders = {"in one batch": range(count), "in reverse order": range(count - 1, -1, -1)}
    ways = [(f"{where}, batch size {size}", order, size) for where, order in orders.items() for size in (count, 3)]
    for where, order, size in ways:
        have = predict(case, method, size=size, order=order)
        for name, value in want.items():
            require_close(have[name], value, case.tolerance, f"prediction {name!r} {where}")
    if method.coupled or count < 4:
        return
    with torch.no_grad():
        whole, *parts = (method.training_step(batch_of(case, rows)) for rows in (range(4), range(3), range(3, 4)))
    mean = sum((part.loss * part.count for part in parts), torch.zeros(())) / sum(part.count for part in parts)
    require_close(mean, whole.loss, case.tolerance, "the loss of a batch, as the mean over its parts,")


def check_trains_on(case: MethodCase, folder: Path) -> None:
    """A reloaded artifact (training view) has the loss it was saved with, and can be tuned further."""
    method = train(case, folder / "run")
    save_artifact(folder / "tuned", method, card_of(method, case.method_id))
    artifact = read_artifact(folder / "tuned", training=True)
    fresh = build(case, seed=9)
    fresh.restore("predict", artifact.tensors)
    fresh.restore("train", artifact.training or {})
    batch = batch_of(case, range(min(8, len(samples(case)))))
    have, want = loss_and_gradients(fresh, batch)[0], loss_and_gradients(method, batch)[0]
    require(same_bytes(have, want), f"the reloaded method starts at loss {float(have)}, it was saved at {float(want)}")
    before = copies(dict(fresh.named_parameters()))
    train(case, folder / "on", fresh, options=replace(case.options, seed=case.options.seed + 1, select=False))
    for name, parameter in fresh.named_parameters():
        require(bool(parameter.isfinite().all()), f"{name!r} is not finite after further tuning")
    stuck = before and not changed(before, dict(fresh.named_parameters()))
    require(not stuck, "further tuning changed nothing")


def check_bad_inputs(case: MethodCase, folder: Path) -> None:
    """Every bad input of the table is refused with a message of ours."""
    for bad in case.bad_inputs:
        try:
            bad.run()
        except (UserError, ValueError) as error:
            require(
                bool(re.search(bad.match, str(error))), f"{bad.name}: the message {str(error)!r} lacks {bad.match!r}"
            )
        else:
            raise AssertionError(f"{bad.name} was accepted")


def check_cuts(case: MethodCase, folder: Path) -> None:
    """Two and three micro-batches end where whole batches end, whatever is drawn at random; see `check_two_processes` for exemptions."""
    if build(case).coupled or not case.accumulates:
        return
    options = replace(case.options, optimizer="sgd", select=False)
    want = copies(train(case, folder / "whole", options=options).own_tensors())
    for parts in (2, 3):
        have = train(case, folder / f"cut-{parts}", options=replace(options, accumulate=parts)).own_tensors()
        for name, tensor in want.items():
            # A tensor that is zero but for rounding has no scale of its own.
            what = f"{name!r} with batches cut into {parts}"
            require_close(have[name], tensor, 10 * case.tolerance, what, floor=1e-6)


def check_two_processes(case: MethodCase, folder: Path) -> None:
    """Two processes end where one ends, agree bit for bit, and count every sample once.

    Methods that declare `coupled` are exempt. Use an optimiser without per-value normalisation (sgd) where some gradients are zero but
    for rounding: Adam turns those into full steps of arbitrary sign.
    """
    if build(case).coupled:
        return
    method = train(case, folder / "one")
    want = {**copies(method.own_tensors()), **metrics(case, method, World(case.options))}
    first, second = in_processes(2, train_share, case, folder)
    for name, tensor in want.items():
        require(same_bytes(first[name], second[name]), f"{name!r} differs between the two processes")
        # A tensor that is zero but for rounding has no scale of its own.
        require_close(first[name], tensor, 10 * case.tolerance, f"{name!r} of two processes", floor=1e-6)


CHECKS: dict[str, Callable[[MethodCase, Path], None]] = {
    "declarations": check_declarations,
    "parameter_count": check_parameter_count,
    "reload": check_reload,
    "resume": check_resume,
    "wrong_backbone": check_wrong_backbone,
    "fast_path": check_fast_path,
    "bf16": check_bf16,
    "independence": check_independence,
    "cuts": check_cuts,
    "trains_on": check_trains_on,
    "bad_inputs": check_bad_inputs,
}
SLOW_CHECKS: dict[str, Callable[[MethodCase, Path], None]] = {"two_processes": check_two_processes}


def check_method(case: MethodCase, folder: Path, processes: bool = True) -> None:
    """Run all checks below `folder`; `processes=False` leaves out those that train in several processes.

    Raises:
        AssertionError: the first check that fails; the message starts with its name.
    """
    for name, check in {**CHECKS, **(SLOW_CHECKS if processes else {})}.items():
        (folder / name).mkdir(parents=True)
        try:
            check(case, folder / name)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
