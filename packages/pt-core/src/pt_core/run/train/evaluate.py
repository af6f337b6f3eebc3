"""Passes over data with a method's current state: evaluation (sharded, every sample once) and prediction records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from pt_core.data import Batch, Dataset, generator
from pt_core.method import Method
from pt_core.run.data.streams import Shard, ordered_batches
from pt_core.run.train.world import World
from pt_core.task import Evaluation, Predictions


def predict_batch(method: Method, batch: Batch, seed: int) -> Predictions:
    """One prediction step; each sample's generator is keyed by (seed, sample id)."""
    return method.predict_step(batch, lambda sample_id: generator(seed, "predict", sample_id))


def predictions(
    method: Method, dataset: Dataset, world: World, batch_size: int, seed: int, workers: int = 0
) -> Iterator[tuple[Batch, Predictions]]:
    """This process's share of the dataset with its predictions, in evaluation mode."""
    training = method.training
    method.eval()
    dataset = method.predict_view(dataset)
    try:
        for batch in ordered_batches(dataset, batch_size, seed, Shard(world.rank, world.size), workers):
            moved = batch.to(world.device)
            with torch.no_grad(), world.autocast():
                result = predict_batch(method, moved, seed)
            yield (
                moved,
                {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in result.items()},
            )
    finally:
        method.train(training)


def evaluate(
    method: Method,
    dataset: Dataset,
    world: World,
    batch_size: int,
    seed: int,
    workers: int = 0,
    records: bool = False,
    files: Callable[[str, Mapping[str, bytes]], None] | None = None,
) -> Evaluation:
    """Evaluate on all samples of a dataset, sharded over the processes. `files(sample id, name -> content)` gets what is no table."""
    evaluator = method.task.evaluator()
    rows: list[tuple[int, dict[str, Any]]] = []
    for batch, predicted in predictions(method, dataset, world, batch_size, seed, workers):
        evaluator.update(predicted, batch)
        if files is not None:
            for sample_id, found in zip(batch.ids, method.task.files(predicted, batch), strict=True):
                files(sample_id, found)
        if records:
            rows.extend(zip(batch.index.tolist(), method.task.records(predicted, batch), strict=True))
    metrics = evaluator.compute()
    ordered = sorted(world.gather(rows), key=lambda row: row[0]) if records else []
    return Evaluation(metrics, evaluator.tables(), [row for _, row in ordered])
