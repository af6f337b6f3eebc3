"""CoDA against its card: chain, slots, which calls get prompts, what a step computes, what remains at inference."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pt_core.artifact import read_artifact
from pt_core.data import generator
from pt_core.errors import ConfigError, DataError
from pt_core.randomness import keyed
from pt_core.run.train.rundir import RunDir
from pt_core.run.train.trainer import Trainer
from pt_core.run.train.world import World
from pt_core.saving import card_of, save_artifact
from pt_vision.adapters.mit import MitBackbone
from pt_vision.methods.segmentation.coda import CoDA, CoDAConfig, chain_slot
from pt_vision.networks.mit import build_mit, preprocessing
from pt_vision.segmentation.data.crops import TrainingView
from pt_vision.segmentation.data.dataset import SegmentationDataset
from pt_vision.segmentation.task import Segmentation

from tests.vision.segmentation.common import CROP, DATA, OPTIONS, pictures, seeded_make, tiny


def test_published_schedule():
    slots = [chain_slot(k) for k in range(13_000)]
    assert slots[:1200] == ["easy"] * 1200
    assert slots[1200:5200] == ["hard"] * 4000
    assert slots[5200:6400] == ["easy"] * 1200
    assert slots[6400:10400] == ["hard"] * 4000
    assert slots[10400:11600] == ["easy"] * 1200
    assert slots[11600:12000] == ["hard"] * 400
    assert set(slots[12000:]) == {"target"}
    method = seeded_make("coda")
    assert [method.plan(k, 60_000) for k in range(13_000)] == slots
    # Shorter runs walk the same chain in proportion.
    short = [method.plan(k, 600) for k in range(600)]
    assert short == [chain_slot(k, 120, 52, 12) for k in range(600)]
    fixed = seeded_make("coda", chain_length=6, chain_cycle=4, chain_easy=1)
    assert [fixed.plan(k, 10) for k in range(8)] == ["easy", "hard", "hard", "hard", "easy", "hard", "target", "target"]
    free = seeded_make("coda", chain=False)
    assert {free.plan(k, 600) for k in range(600)} == {"target"}


def context(data, **options):
    values = {"steps": 10, "epochs": 1, "batch_size": 2, **options}
    return SimpleNamespace(data=data, options=SimpleNamespace(**values))


def slots(data, **options):
    return seeded_make("coda", **options).slots(context({"train": DATA["train"], **data}))


def test_easy_and_hard_images_are_found_by_condition_by_severity_or_given():
    target = DATA["target"]
    found = slots({"target": target})
    assert found["easy"].rows == (0, 2, 4)
    assert found["hard"].rows == (1, 3, 5)
    assert found["target"].rows is None
    # Without names the severity of the images tells them apart: the same, as every second one is dark.
    nameless = pictures(6, 2, dark=True, masks=False)
    nameless.condition = ()
    by_severity = slots({"target": nameless})
    assert (by_severity["easy"].rows, by_severity["hard"].rows) == ((0, 2, 4), (1, 3, 5))
    assert slots({"target": target}, split="severity")["hard"].rows == (1, 3, 5)
    given = slots({"target": target, "easy": DATA["val"], "hard": DATA["val"]})
    assert (given["easy"].role, given["hard"].role) == ("easy", "hard")
    other = slots({"target": target}, hard_conditions=("day",))
    assert other["easy"].rows == (1, 3, 5)
    assert set(slots({"target": target}, chain=False)) == {"target"}


def test_empty_slots_are_named():
    bright = pictures(4, 2, masks=False)
    bright.condition = ()
    with pytest.raises(DataError, match="slot 'hard' has no image .*give --data hard=PATH, or --no-chain"):
        slots({"target": bright})
    with pytest.raises(DataError, match="slot 'hard' has no image .conditions are day, night, hard ones fog"):
        slots({"target": DATA["target"]}, split="condition", hard_conditions=("fog",))
    with pytest.raises(ConfigError, match="split='condition' needs target images in folders"):
        slots({"target": bright}, split="condition")


@pytest.mark.parametrize(
    ("options", "prompted"),
    [
        ({}, {("easy", "mixed"), ("easy", "masked"), ("hard", "mixed"), ("hard", "masked")}),
        ({"official_calls": True}, {("easy", "pseudo"), ("easy", "mixed"), ("hard", "mixed"), ("hard", "masked")}),
        ({"savpt": False}, set()),
    ],
)
def test_which_calls_get_prompts(options, prompted):
    method = seeded_make("coda", **options)
    calls = [(slot, call) for slot in ("easy", "hard") for call in ("pseudo", "mixed", "masked")]
    assert {pair for pair in calls if method.visit(*pair) is not None} == prompted
    assert all(seeded_make("self_training").visit(*pair) is None for pair in calls)


class Recorder:
    """A step context that keeps what a step does with one micro-batch."""

    def __init__(self, method, drawn, step: int = 0) -> None:
        self.method, self.step, self.device = method, step, torch.device("cpu")
        self.drawn = drawn
        self.calls: list[tuple[float, int]] = []
        self.updates = 0
        self.after: list[dict[str, bool]] = []

    def rng(self, *key):
        return generator("recorder", self.step, *key)

    def each_part(self, fn):
        return [fn({name: keyed(batch, self.step, name) for name, batch in self.drawn.items()})]

    def reduce(self, values):
        return values.detach().clone()

    def gather(self, values):
        return list(values)

    def backward(self, loss, count, retain_graph=False):
        self.calls.append((float(loss.detach()), count))
        (loss * count).backward()
        self.after.append({n: p.grad is not None for n, p in self.method.named_parameters()})

    def update(self, optimiser="main", clip=True):
        self.updates += 1
        return 0.0


def batches(target: SegmentationDataset | None = None, slot: str = "hard", size: int = 2):
    def draw(dataset, labelled):
        view = TrainingView(dataset, CROP, labelled=labelled)
        return view.collate(list(range(size)), [view.sample(n, epoch=0, seed=0) for n in range(size)])

    return {"source": draw(DATA["train"], True), slot: draw(target or DATA["target"], False)}


def test_a_step_adds_its_losses_and_updates_once():
    method = seeded_make("coda", thing_classes=("disc",)).train()
    recorder = Recorder(method, batches())
    logs = method.step(recorder)
    assert recorder.updates == 1
    # The trainer divides the sum of loss * count by the sum of counts: each loss weighs 1.
    total = sum(loss * count for loss, count in recorder.calls) / sum(count for _, count in recorder.calls)
    assert [count for _, count in recorder.calls] == [1, 1, 1]
    assert total == pytest.approx(float(logs["loss"]), rel=1e-5)
    assert "feature_distance" in logs
    assert {"loss_source", "loss_mixed", "loss_masked", "confident"} <= set(logs)


def test_source_images_get_no_prompts_and_the_teacher_no_gradient():
    method = seeded_make("coda").train()
    recorder = Recorder(method, batches())
    method.step(recorder)
    prompts = [name for name in recorder.after[0] if ".prompts." in name]
    assert prompts
    assert not any(recorder.after[0][name] for name in prompts)  # after the source loss
    assert any(recorder.after[1][name] for name in prompts)  # after the mixed loss
    assert not any(tensor.requires_grad for tensor in method.teacher.buffers())
    assert not list(method.teacher.parameters())
    assert all(p.grad is None for p in method.backbone.module.parameters())


def test_every_view_of_a_step_runs_in_few_encoder_calls():
    """Student thrice, the initial network once, and the teacher once: its 2 context and 18 detail views are one batch."""
    method = seeded_make("coda", thing_classes=("disc",)).train()
    seen: list[int] = []
    encode = method.backbone.encode

    def counted(inputs, edits, read):
        seen.append(len(inputs))
        return encode(inputs, edits, read)

    method.backbone.encode = counted
    method.step(Recorder(method, batches()))
    assert sorted(seen) == [2, 4, 4, 4, 20]


def test_labels_of_target_images_are_never_read():
    results = []
    for target in (DATA["target"], pictures(6, 2, dark=True, masks=True)):
        method = seeded_make("coda").train()
        torch.manual_seed(0)
        logs = method.step(Recorder(method, batches(target)))
        results.append({name: float(value) for name, value in logs.items()})
        streams = method.slots(context({"train": DATA["train"], "target": target}))
        for stream in streams.values():
            view = stream.view(target)
            assert view.collate([0], [view.sample(0, epoch=0, seed=0)]).target is None
    assert results[0] == results[1]


def test_batches_of_other_sizes_and_missing_ones():
    for size in (1, 3):
        method = seeded_make("coda").train()
        logs = method.step(Recorder(method, batches(size=size)))
        assert all(torch.isfinite(torch.as_tensor(value)) for value in logs.values())
    recorder = Recorder(method, {"source": batches()["source"]})  # of a process without target images
    assert float(method.step(recorder)["loss"]) == 0
    assert (recorder.updates, recorder.calls) == (1, [])


def test_pseudo_labels_weigh_one_number_and_nothing_on_margins():
    method = seeded_make("coda", margin_top=0.25, margin_bottom=0.0, margin_side=0.0, threshold=0.2).train()
    drawn = batches()["hard"]
    (pairs,) = Recorder(method, {**batches(), "hard": drawn}).each_part(method.labelled)
    weights = method.pixel_weights(pairs, pairs.sure.mean())
    assert pairs.pseudo.shape == weights.shape == (2, CROP, CROP)
    assert pairs.sure.tolist() == [1.0, 1.0]  # three classes: some probability is above 0.2 everywhere
    assert not weights[:, : CROP // 4].any()
    assert bool((weights[:, CROP // 4 :] == 1).all())


def test_full_size_counts_and_the_inference_view():
    with torch.device("meta"):
        backbone = MitBackbone(build_mit("b5", decoder=False), "mit:b5", preprocessing(1024))
        method = CoDA(CoDAConfig(), {"encoder": backbone}, Segmentation([f"class {n}" for n in range(19)]))
    base = 81_443_008 + 3_712_275 + 530_707
    assert method.parameter_count() == base + 122_880 + 4_256
    view = method.export("predict")
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert sum(t.numel() for n, t in view.items() if not n.endswith(statistics)) == base
    assert not [name for name in view if "prompts" in name or "teacher" in name]


def test_a_trained_run_loads_without_its_prompts(tmp_path):
    method = seeded_make("coda", chain_length=2, chain_cycle=2, chain_easy=1)
    world = World(OPTIONS)
    with RunDir(tmp_path / "run", True).open() as run:
        run.update({"status": "running"})
        Trainer(method, DATA, OPTIONS, run, world).fit()
        lines = run.metrics()
    assert {line["stage"] for line in lines} == {"adapt"}  # one stage walks the chain
    assert {"miou/day", "miou/night"} <= set(lines[-1])
    save_artifact(tmp_path / "tuned", method, card_of(method, "pt-vision/coda"))
    artifact = read_artifact(tmp_path / "tuned", training=True)
    dropped = {name for name in method.own_tensors() if name.startswith(("teacher.", "network.prompts."))}
    assert set(artifact.training) == dropped
    assert set(artifact.tensors) == set(method.own_tensors()) - dropped
    plain = seeded_make("self_training", seed=0)  # the base network takes the same tensors
    plain.restore("predict", artifact.tensors)
    x = DATA["val"].collate([0], [DATA["val"].sample(0, epoch=None, seed=0)])
    with torch.no_grad():
        assert torch.equal(plain.eval()(x), method.eval()(x))
    titles = [panel["title"] for panel in method.panels()]
    assert titles == ["Severity of the target images", "Target images by severity"]
    from pt_vision.modality import Vision

    (panel,) = Vision().history_panels(method, lines)
    assert set(panel.data["series"]) == {"all", "day", "night"}
    assert "easy to step 1, hard to step 2, target to step 4" in panel.note


def test_classes_without_enough_pixels_are_left_out_with_a_warning():
    from tests.vision.segmentation.common import LABELS

    source = pictures(3, 1)
    source.classes = [*LABELS, "unicorn"]
    method = seeded_make("coda")
    with pytest.warns(UserWarning, match="no training image has enough pixels of unicorn"):
        method.adopt({"train": source})


def test_parameter_groups_as_released():
    method = seeded_make("coda")
    groups = method.param_groups(None)
    rate = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    decay = {id(p): group.get("weight_decay") for group in groups for p in group["params"]}
    for name, parameter in method.named_parameters():
        head = name.startswith(("network.head", "network.attention"))
        assert rate[id(parameter)] == (10.0 if head else 1.0), name
        assert (decay[id(parameter)] == 0.0) == ("norm" in name), name


def test_drop_path_of_the_encoder_is_on_while_training_only():
    method = seeded_make("source_only", head_dropout=0.0).train()
    x = torch.randn(4, 3, 32, 32)
    assert not torch.equal(method.network.maps(x)[3], method.network.maps(x)[3])
    still = seeded_make("source_only", stochastic=False).train()
    assert torch.equal(still.network.maps(x)[3], still.network.maps(x)[3])
    assert torch.equal(method.eval().network.maps(x)[3], still.network.maps(x)[3])
    assert not tiny().module.training
