"""Small hooks of the contracts that no core file uses itself: a stream's view, panels from a run's history, further columns of a demo."""

from __future__ import annotations

import json

import pytest
import torch
from pt_core import Stage, StepOutput, Stream
from pt_core.randomness import dropout, seeded
from pt_core.run.command.contenders import compare_methods
from pt_core.run.declare.options import TrainOptions
from pt_core.run.declare.panel import Panel
from pt_core.run.train.rundir import RunDir
from pt_core.run.train.trainer import Trainer
from pt_core.run.train.world import World
from pt_core.testing.tiny import TinyBackbone, TinyMethod, ToyTask, Vectors

from tests.core.run.toy import Toy


def test_a_stream_sees_its_view_and_evaluation_the_role(tmp_path):
    seen = []

    class Blind(TinyMethod):
        def stages(self, ctx):
            def view(dataset):
                assert dataset is ctx.data["train"]
                return Vectors(len(dataset), seed=3, labelled=False)

            yield Stage("train", streams={"u": Stream("train", view=view, rows=(0, 2))})

        def training_step(self, batch):
            seen.append((batch.target, tuple(batch.ids)))
            return StepOutput(self(batch).square().mean(), len(batch))

    options = TrainOptions(steps=3, batch_size=2, device="cpu")
    data = {"train": Vectors(6), "val": Vectors(6, seed=1)}
    with RunDir(tmp_path, True).open() as run:
        Trainer(Blind(None, {"backbone": TinyBackbone()}, ToyTask()), data, options, run, World(options)).fit()
    assert {target for target, _ in seen} == {None}
    assert {name for _, ids in seen for name in ids} == {"v3-0", "v3-2"}


@pytest.mark.parametrize("accumulate", [2, 3])
def test_samples_drawn_twice_in_a_step_are_dropped_apart_however_it_is_cut(accumulate, tmp_path):
    """Balanced sampling and replay: the masks of both times differ, and one process equals several parts."""

    def train(folder, accumulate):
        masks = {}

        class Dropping(TinyMethod):
            def stages(self, ctx):
                def replay(step):
                    batch = step.batch("train", [3, 1, 3, 3], "replay")
                    seen.append(len(batch.keys.unique()))

                yield Stage("train", streams={"a": Stream("train", balanced=True)}, after_backward=replay)

            def training_step(self, batch):
                mask = dropout(torch.ones(len(batch), 64), 0.5, True, "test")
                for name, row in zip(batch.ids, mask, strict=True):
                    masks.setdefault(name, []).append(row)
                logits = self(batch) * mask[:, :1]
                return StepOutput(self.task.loss(logits, batch)[0], len(batch))

        seen = []
        options = TrainOptions(steps=1, batch_size=12, device="cpu", accumulate=accumulate, optimizer="sgd", lr=0.1)
        data = Vectors(12)
        data.labels = [0] * 10 + [1, 2]
        with seeded(0, "init"):
            method = Dropping(None, {"backbone": TinyBackbone()}, ToyTask())
        with RunDir(folder, True).open() as run:
            Trainer(method, {"train": data}, options, run, World(options)).fit()
        assert seen == [4]
        return masks, method.state_dict()

    whole, parts = train(tmp_path / "whole", 1), train(tmp_path / "parts", accumulate)
    for name, rows in whole[0].items():
        assert len({tuple(row.tolist()) for row in rows}) == len(rows)
        assert all(torch.equal(a, b) for a, b in zip(rows, parts[0][name], strict=True))
    assert max(map(len, whole[0].values())) > 1
    for name, tensor in whole[1].items():
        torch.testing.assert_close(parts[1][name], tensor, rtol=1e-5, atol=1e-6)


class WithHistory(Toy):
    def history_panels(self, method, metrics):
        steps = [line["step"] for line in metrics if (line.get("split"), line.get("stage")) == ("val", "train")]
        return [Panel("Steps judged", "text", {"text": f"{method.parameter_count()}: {steps}"})]


def test_a_modality_draws_panels_from_a_runs_history_and_a_demo_shows_further_metrics(tmp_path, capsys):
    run = {"method": "prompt", "data": ("vectors:30",), "steps": 4, "batch_size": 8, "eval_every": 2}
    compare_methods(
        WithHistory(),
        tmp_path,
        {"short": run, "shorter": {**run, "steps": 2}},
        intro="",
        next_="",
        further=("balanced_accuracy",),
    )
    head, first, second, *_ = capsys.readouterr().out.splitlines()
    assert head.split()[-2:] == ["balanced_accuracy", "seconds"]
    stored = json.loads((tmp_path / "short/seed-0/run.json").read_text())["results"]["test"]["balanced_accuracy"]
    assert float(first.split()[-2]) == pytest.approx(stored, abs=5e-4)
    assert second.startswith("shorter")
    panels = json.loads((tmp_path / "short/seed-0/report.json").read_text())["panels"]
    (panel,) = [panel for panel in panels if panel["title"] == "Steps judged"]
    assert panel["data"]["text"].endswith("[2, 4]")
