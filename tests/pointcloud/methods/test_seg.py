"""Part segmentation: the published count, the paper written out, propagation, and the metrics of ShapeNetPart."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pt_core import Batch
from pt_core.data import generator
from pt_core.errors import ArtifactError, ConfigError, DataError
from pt_pointcloud.methods.idpt import IDPT, IDPTConfig
from pt_pointcloud.methods.idpt_seg import IDPTSeg, IDPTSegConfig
from pt_pointcloud.methods.linear_seg import LinearSegProbe
from pt_pointcloud.networks.backbone import PointBackbone
from pt_pointcloud.networks.grouping import group
from pt_pointcloud.networks.propagation import default_layers, propagate
from pt_pointcloud.networks.transformer import PointConfig, PointTransformer
from pt_pointcloud.tasks.parts import PartSegmentation, shape_iou
from torch import Tensor
from torch.nn import functional as F

from tests.pointcloud.common import LABELS, PART_DATA, PARTS, batch_of, close, clouds, part_task, seeded_make, tiny

BATCH = batch_of(PART_DATA["val"])


def test_count_of_the_published_network():
    with torch.device("meta"):
        backbone = PointBackbone(PointTransformer(PointConfig(groups=128, points=2048)), "published")
        names = [f"category {n}" for n in range(16)]
        task = PartSegmentation(names, [str(n) for n in range(50)], {name: [n] for n, name in enumerate(names)})
        method = IDPTSeg(IDPTSegConfig(), {"backbone": backbone}, task)
    assert method.layers == (3, 7, 11)
    assert method.parameter_count() == 5_683_762


@pytest.mark.parametrize(("depth", "layers"), [(12, (3, 7, 11)), (6, (1, 3, 5)), (3, (0, 1, 2))])
def test_default_layers(depth, layers):
    assert default_layers(depth) == layers


def test_it_is_the_paper_written_out():
    method = seeded_make(IDPTSeg, layers=(1, 2)).eval()
    net, points = method.backbone.module, BATCH.inputs["points"]
    centres, patches = group(points, 8, 6)
    x, pos, generated, outputs = net.embed(patches), net.pos_embed(centres), [], []
    for layer, block in enumerate(net.blocks.blocks):
        if layer in method.layers:
            prompt = method.prompt_modules[method.layers.index(layer)](x)
            x = block(torch.cat([prompt, x], 1) + torch.cat([method.prompt_position.expand(9, -1, -1), pos], 1))
            generated.append(net.norm(prompt)[:, 0])
            outputs.append(net.norm(x))
            x = x[:, 1:]
        else:
            x = block(x + pos)
    carried = propagate(points, centres, torch.cat([out[:, 1:] for out in outputs], -1))
    label = method.label(F.one_hot(BATCH.inputs["category"], 3).float())
    shared = torch.cat([*generated, *(out[:, 0] for out in outputs), label], -1)[:, None].expand(-1, 48, -1)
    joined = method.join(torch.cat([method.points(torch.cat([points, carried], -1)), shared], -1))
    close(method(BATCH), method.head(joined).log_softmax(-1), 1e-4)


def test_propagation_weighs_three_centres_by_squared_distance():
    points, centres = torch.rand(2, 7, 3, generator=generator("p")), torch.rand(2, 5, 3, generator=generator("c"))
    features = torch.randn(2, 5, 4, generator=generator("f"))
    want = torch.zeros(2, 7, 4)
    for b in range(2):
        for i in range(7):
            squared = (centres[b] - points[b, i]).square().sum(1)
            nearest = squared.argsort()[:3]
            weight = 1 / (squared[nearest] + 1e-8)
            want[b, i] = (weight / weight.sum()) @ features[b, nearest]
    close(propagate(points, centres, features), want, 1e-4)


def test_the_category_matters():
    for cls in (IDPTSeg, LinearSegProbe):
        method = seeded_make(cls).eval()
        other = Batch(
            {**BATCH.inputs, "category": (BATCH.inputs["category"] + 1) % 3}, BATCH.target, BATCH.index, BATCH.ids
        )
        assert (method(other) - method(BATCH)).abs().max() > 1e-4
        torch.testing.assert_close(method(BATCH).exp().sum(-1), torch.ones(9, 48))


def predictions(target: Tensor, right: float = 1.0) -> dict[str, Tensor]:
    """Log-probabilities that favour the target, or anything else for a share of the points."""
    logits = torch.zeros(*target.shape, 6)
    keep = torch.rand(target.shape, generator=generator("right")) < right
    logits.scatter_(2, torch.where(keep, target, (target + 1) % 6)[..., None], 5.0)
    return {"logits": logits.log_softmax(-1)}


def test_intersection_over_union():
    predicted, target = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 1, 1, 1])
    assert float(shape_iou(predicted, target, [0, 1])) == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert float(shape_iou(predicted, target, [0, 1, 2])) == pytest.approx(
        (1 / 2 + 3 / 4 + 1) / 3
    )  # part 2 is in neither


def test_metrics_are_means_over_clouds_and_over_categories():
    task, scores = part_task(), []
    evaluator = task.evaluator()
    predicted = predictions(BATCH.target, 0.7)
    evaluator.update(predicted, BATCH)
    metrics = evaluator.compute()
    chosen = task.choose(predicted, BATCH)
    for n in range(9):
        own = task.parts_of[LABELS[n % 3]]
        assert set(chosen[n].tolist()) <= set(own)  # only parts of the cloud's category
        ious = []
        for part in own:
            a, b = chosen[n] == part, BATCH.target[n] == part
            ious.append(float((a & b).sum() / (a | b).sum()) if (a | b).any() else 1.0)
        scores.append(sum(ious) / len(ious))
    assert metrics["instance_miou"] == pytest.approx(sum(scores) / 9)
    assert metrics["category_miou"] == pytest.approx(sum(sum(scores[n::3]) / 3 for n in range(3)) / 3)
    assert metrics["accuracy"] == pytest.approx(float((chosen == BATCH.target).float().mean()))
    rows = evaluator.tables()["per_class"]
    assert [row["category"] for row in rows] == LABELS
    assert rows[0]["miou"] == pytest.approx(sum(scores[::3]) / 3)
    perfect = task.evaluator()
    perfect.update(predictions(BATCH.target), BATCH)
    assert perfect.compute()["instance_miou"] == 1


def test_loss_is_the_mean_over_points():
    task, predicted = part_task(), predictions(BATCH.target, 0.5)["logits"]
    loss, count = task.loss(predicted, BATCH)
    assert count == 9 * 48
    torch.testing.assert_close(loss, F.nll_loss(predicted.flatten(0, 1), BATCH.target.flatten()))


def test_records_name_parts_and_score():
    rows = part_task().records(predictions(BATCH.target), BATCH)
    assert rows[1]["label"] == "rod"
    assert rows[1]["miou"] == 1
    assert rows[1]["parts"] == BATCH.target[1].tolist()
    assert "low" in rows[1]["predicted"]
    assert part_task().line(rows[1]).startswith("cloud-2-1\t")


def test_the_task_survives_its_json():
    task = part_task()
    again = PartSegmentation.from_json(task.to_json())
    assert again.to_json() == task.to_json()
    assert PartSegmentation.from_data(clouds(9, 0)).parts_of == task.parts_of


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: PartSegmentation.from_json({"categories": ["a"], "part_names": ["p"]}), ArtifactError, "not valid"),
        (
            lambda: PartSegmentation.from_json({"categories": "a", "part_names": ["p"], "parts_of": {}}),
            ArtifactError,
            "categories",
        ),
        (lambda: PartSegmentation(["a"], ["p"], {"a": [1]}), DataError, r"must lie in 0\.\.0"),
        (
            lambda: PartSegmentation.from_data(SimpleNamespace(labels=[0], parts=None)),
            DataError,
            "needs a part for every point",
        ),
        (
            lambda: part_task().check_dataset(SimpleNamespace(labels=[0], parts=None), "val"),
            DataError,
            "role 'val' has no parts",
        ),
        (
            lambda: part_task().check_dataset(clouds(3, 0).relabel(["rod", "ball", "sheet"]), "train"),
            DataError,
            "which that category does not have",
        ),
        (lambda: seeded_make(IDPTSeg, layers=(0, 9)), ConfigError, r"layers=\(0, 9\) do not all exist"),
        (
            lambda: IDPT(IDPTConfig(), {"backbone": tiny()}, part_task()),
            ConfigError,
            "predicts one output per cloud, task 'parts' needs one per point",
        ),
    ],
)
def test_bad_input_is_refused(run, error, message):
    with pytest.raises(error, match=message):
        run()


def test_part_names_are_of_their_category():
    assert [name.partition("/")[0] for name in PARTS] == ["ball", "ball", "rod", "rod", "sheet", "sheet"]
