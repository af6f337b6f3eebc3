"""Inputs without one tensor row per sample, targets that are no class indices, shared optimisers, late selection: hooks of packages."""

from dataclasses import dataclass

import pytest
import torch
from pt_core import Optimiser, Stage
from pt_core.data import Batch, map_tensors, take
from pt_core.run.data.features import FeatureDataset
from pt_core.run.data.sampling import SubsetDataset
from pt_core.run.declare.options import TrainOptions
from pt_core.run.train.evaluate import evaluate
from pt_core.run.train.optim import build_optimisers
from pt_core.run.train.rundir import RunDir
from pt_core.run.train.trainer import Trainer
from pt_core.run.train.world import World
from pt_core.testing.tiny import TinyBackbone, TinyMethod, ToyTask, Vectors


@dataclass
class Bags:
    """Values of several samples, one after the other."""

    values: torch.Tensor
    sizes: torch.Tensor

    def map_tensors(self, fn):
        return Bags(fn(self.values), fn(self.sizes))

    def select_rows(self, rows):
        parts = self.values.split(self.sizes.tolist())
        return Bags(torch.cat([parts[row] for row in rows]), self.sizes[rows])


def bags():
    return Batch(
        Bags(torch.arange(6.0), torch.tensor([1, 3, 2])), torch.tensor([0, 1, 2]), torch.arange(3), ["a", "b", "c"]
    )


def test_ragged_inputs_are_mapped_and_selected():
    doubled = map_tensors({"x": bags().inputs}, lambda tensor: 2 * tensor)["x"]
    assert doubled.values.tolist() == [0, 2, 4, 6, 8, 10]
    assert bags().to("cpu").inputs.values.tolist() == bags().inputs.values.tolist()
    part = take(bags(), [2, 1])
    assert (part.inputs.values.tolist(), part.inputs.sizes.tolist()) == ([4, 5, 1, 2, 3], [2, 3])
    assert (part.ids, part.target.tolist()) == (["c", "b"], [2, 1])


class Signed(Vectors):
    """Vectors with a target that is no class index."""

    def target(self, rows):
        return torch.tensor([[-1.0, float(row)] for row in rows])


def test_frozen_features_keep_the_targets_of_their_data():
    base = Signed(6)
    subset = SubsetDataset(base, [4, 1])
    assert subset.target([0, 1]).tolist() == [[-1, 4], [-1, 1]]
    batch = FeatureDataset(subset, torch.zeros(2, 3)).collate([1], [torch.zeros(3)])
    assert batch.target.tolist() == [[-1, 1]]
    assert FeatureDataset(Vectors(6), torch.zeros(6, 3)).collate([5], [torch.zeros(3)]).target.tolist() == [2]
    assert FeatureDataset(Vectors(6, labelled=False), torch.zeros(6, 3)).collate([5], [torch.zeros(3)]).target is None


def method():
    torch.manual_seed(0)
    return TinyMethod(None, {"backbone": TinyBackbone()}, ToyTask())


def test_shared_optimisers_step_one_tensor_with_their_own_moments():
    tuned = method()
    spec = {name: Optimiser(("head.*",), {"optimizer": "adam", "adam_eps": 1e-3}, shared=True) for name in ("a", "b")}
    built = build_optimisers(tuned, Stage("s", optimisers=spec), TrainOptions(lr=0.1))
    assert [built[name].inner.defaults["eps"] for name in "ab"] == [1e-3, 1e-3]
    for name, scale in (("a", 1.0), ("b", -3.0)):
        built[name].inner.zero_grad()
        (scale * tuned.head.bias.sum()).backward()
        built[name].inner.step()
    moments = [built[name].inner.state[tuned.head.bias]["exp_avg"] for name in "ab"]
    assert float(moments[0][0]) > 0 > float(moments[1][0])


class Late(TinyMethod):
    """Selects among the evaluations of the second half."""

    def stages(self, ctx):
        yield Stage("late", select_from=self.select_from)


@pytest.mark.parametrize(("select_from", "evaluations"), [(0, [2, 4, 6]), (4, [4, 6]), (99, [6])])
def test_selection_counts_from_a_step_on(select_from, evaluations, tmp_path):
    torch.manual_seed(0)
    tuned = Late(None, {"backbone": TinyBackbone()}, ToyTask())
    tuned.select_from = select_from
    options = TrainOptions(steps=6, batch_size=8, lr=0.3, optimizer="sgd", eval_every=2, device="cpu")
    data = {"train": Vectors(24, seed=1), "val": Vectors(30, seed=2)}
    with RunDir(tmp_path / "run").open(False) as run:
        Trainer(tuned, data, options, run, World(options)).fit()
        lines = [line for line in run.metrics() if line["split"] == "val"]
    best = max(line["accuracy"] for line in lines if line["step"] in evaluations)
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert evaluate(tuned, data["val"], World(options), 8, 0).metrics["accuracy"] == pytest.approx(best)
