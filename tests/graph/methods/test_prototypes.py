"""GraphPrompt and GPPT: prototypes and tokens come from the training graphs alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from pt_core.errors import DataError
from pt_core.run.declare.options import build_all
from pt_core.testing import BadInput
from pt_core.testing._support import train
from pt_graph.graphs.batch import collate
from pt_graph.methods.gppt import GPPT, GPPTConfig
from pt_graph.methods.graph_prompt import GraphPrompt, GraphPromptConfig
from torch.nn import functional as F

from tests.graph.methods.common import DIM, OPTIONS, batch, case, close, conformance, data, make, seeded_make

CASES = {
    "graph_prompt": case(GraphPrompt, "shapes", DIM, {}),
    "graph_prompt_binary": case(GraphPrompt, "molecules", DIM, {"init": "ones", "readout": "neighbourhood"}),
    "gppt": case(
        GPPT, "shapes", 4 * 3 * DIM, {"centres": 4}, options=replace(OPTIONS, lr=0.01, steps=20), idle=("task_tokens",)
    ),
}
BAD = (
    BadInput(
        "temperature of zero", lambda: build_all({"config": GraphPromptConfig}, {"temperature": 0}), "temperature=0"
    ),
    BadInput("no centre", lambda: build_all({"config": GPPTConfig}, {"centres": 0}), "centres=0"),
)
CASES["graph_prompt"] = replace(CASES["graph_prompt"], bad_inputs=BAD)


@pytest.mark.parametrize(("one", "check"), conformance(CASES))
def test_conformance(one, check, tmp_path):
    check(one, tmp_path)


def trained(cls, tmp_path, kind="shapes", **options):
    one = case(cls, kind, 0, options, options=replace(OPTIONS, steps=3))
    return train(one, tmp_path / "run")


def test_prototypes_are_the_mean_of_the_weighted_sums(tmp_path):
    method = trained(GraphPrompt, tmp_path)
    part = data("shapes")["train"]
    want = []
    with torch.no_grad():
        for label in range(3):
            sums = [
                method.prompt * method.backbone.nodes(graph).sum(0)
                for graph, own in zip(part.graphs, part.labels, strict=True)
                if own == label
            ]
            want.append(torch.stack(sums).mean(0))
        close(method.prompt * method.means, torch.stack(want))
        graph = data("shapes")["val"].graphs[4]
        own = method.prompt * method.backbone.nodes(graph).sum(0)
        logits = torch.stack([F.cosine_similarity(own, proto, dim=0) for proto in want]) / 0.1
        close(method(batch("shapes", 4))[0], logits)
        powers = [math.exp(float(value)) for value in logits]
        target = torch.tensor([1])
        loss, count = method.task.loss(logits[None], batch("shapes", 4))
        assert count == 1
        assert target.tolist() == batch("shapes", 4).target.tolist()
        assert float(loss) == pytest.approx(
            -math.log(powers[1] / sum(powers)), rel=1e-4
        )  # the true class is in the denominator


def test_labels_of_the_query_do_not_matter(tmp_path):
    method = trained(GraphPrompt, tmp_path)
    query = batch("shapes")
    wrong = replace(query, target=(query.target + 1) % 3)
    assert torch.equal(method(query), method(wrong))


def test_ones_leave_the_embeddings_as_they_are(tmp_path):
    method = seeded_make(GraphPrompt, "shapes", init="ones")
    summed = method.summed(batch("shapes"))
    assert torch.equal(method.prompt * summed, summed)


def test_yes_and_no_are_two_prototypes():
    method = seeded_make(GraphPrompt, "molecules")
    assert method.task.slots() == ["acid_ring=no", "acid_ring=yes", "alkyl_halide=no", "alkyl_halide=yes"]
    assert method.task.membership(torch.tensor([[1.0, 0.0]])).tolist() == [[0, 1, 0, 0]]
    scores = torch.tensor([[1.0, 3.0, 0.5, 0.0]])
    logits = method.task.compare(scores)
    close(torch.sigmoid(logits), scores.view(1, 2, 2).softmax(-1)[..., 1])


def test_neighbourhood_readout_is_the_target_node_and_its_neighbours():
    method = seeded_make(GraphPrompt, "shapes", readout="neighbourhood")
    one = batch("shapes", 2)
    nodes = method.backbone.nodes(one.inputs)
    near = {0, *one.inputs.edge_index[0][one.inputs.edge_index[1] == 0].tolist()}
    close(method.frozen_part(one)[0], nodes[sorted(near)].sum(0))


@pytest.mark.parametrize("cls", [GraphPrompt, GPPT])
def test_a_class_without_a_training_graph(cls, tmp_path):
    part = data("shapes")["train"]
    few = part.subset([row for row, label in enumerate(part.labels) if label != 2])
    options = {"centres": 2} if cls is GPPT else {}
    one = replace(case(cls, "shapes", 0, options), data={"train": few})
    with pytest.raises(DataError, match="no training graph of .*star"):
        train(one, tmp_path / "run")


def test_more_centres_than_graphs(tmp_path):
    one = case(GPPT, "shapes", 0, {"centres": 50})
    with pytest.raises(DataError, match="50 centres need as many training graphs, there are 21"):
        train(one, tmp_path / "run")


def test_gppt_by_hand(tmp_path):
    method = trained(GPPT, tmp_path)
    one = batch("shapes", 5)
    with torch.no_grad():
        nodes = method.backbone.nodes(one.inputs)
        near = [0, *one.inputs.edge_index[0][one.inputs.edge_index[1] == 0].tolist()]
        h = nodes[near].mean(0)
        close(method.frozen_part(one)[0], h)
        token = max(range(3), key=lambda k: float(h @ method.structure_tokens[k]))
        close(method(one)[0], method.task_tokens[token] @ h)
        plain, _ = method.task.loss(method(one), one)
        gram = method.task_tokens @ method.task_tokens.transpose(1, 2)
        distance = sum(float((g - torch.eye(3)).norm()) for g in gram) / 3
        assert float(method.training_step(one).loss) == pytest.approx(float(plain) + 1e-3 * distance, rel=1e-4)


def test_task_tokens_start_from_class_means(tmp_path):
    method = make(GPPT, "shapes")

    class Context:
        def batches(self, role):
            yield batch("shapes", role=role)

    method.start(Context())
    part = batch("shapes", role="train")
    with torch.no_grad():
        h = method.frozen_part(part)
        means = torch.stack([h[part.target == c].mean(0) for c in range(3)])
    for token in method.task_tokens.detach():
        close(token, means)


def test_gppt_mean_reads_whole_graphs():
    method = seeded_make(GPPT, "shapes", read="mean")
    graphs = [data("shapes")["val"].graphs[n] for n in (0, 3)]
    together = method.frozen_part(replace(batch("shapes", 0, 3), inputs=collate(graphs)))
    for row, number in enumerate((0, 3)):
        close(together[row], method.frozen_part(batch("shapes", number))[0])
