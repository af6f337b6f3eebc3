"""Contracts of strategies, other class names, two towers, warm starts and custom steps, on toys that no core file knows of."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from pt_core import Insert
from pt_core.data import generator
from pt_core.errors import ArtifactError, BackboneMismatch, UserError
from pt_core.kernels import reference_kernels
from pt_core.recompute import recomputed
from pt_core.run.declare.options import TrainOptions
from pt_core.run.declare.spec import HostSpec
from pt_core.run.tasks.classification import Classification
from pt_core.run.use.load import build_method
from pt_core.testing import CHECKS, SLOW_CHECKS, MethodCase
from pt_core.testing._support import build, copies, train
from pt_core.testing.tiny import TinyBackbone, Vectors
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from tests.core.duals import TinyText, tiny_dual
from tests.core.run.methods.gates import combined
from tests.core.run.toy import ByRole, Toy, vectors

DATA = {"train": vectors(27), "val": vectors(12, seed=2), "unlabeled": Vectors(17, seed=3, labelled=False)}
OPTIONS = TrainOptions(steps=5, batch_size=9, lr=0.05, eval_every=3, device="cpu", optimizer="sgd")
PROMPT = 2 * 2 * 8 + 3 * 8 + 3


def network(kind="tiny", seed=0):
    return tiny_dual(seed) if kind == "dual" else TinyBackbone(seed)


def make(name, hosts=(), kind="tiny", config=None, names=("ant", "bee", "cat")):
    registry = Toy.registry
    chosen = {role: HostSpec(host, registry.load(host).Config()) for role, host in hosts}
    roles = ("fine", "coarse") if name == "pair" else ("backbone",)
    tokens = {"coarse": 2}
    backbones = {role: network(kind) if kind == "dual" else TinyBackbone(0, tokens.get(role, 4)) for role in roles}
    cls = registry.load(name)
    return build_method(registry, name, cls.Config(**(config or {})), chosen, backbones, Classification(list(names)))


def case(name, parameters, hosts=(), kind="tiny", data=DATA, **changes):
    known = {"options": OPTIONS, "parameters": parameters, "method_id": f"pt-toy/{name}"}
    return MethodCase(
        make=partial(make, name, hosts, kind),
        data=data,
        other_backbone=partial(network, kind, 7),
        **{**known, **changes},
    )


BY_ROLE = {role: ByRole(DATA[role], role == "train") for role in ("train", "val")}
STREAM = {"train": DATA["train"], "val": DATA["val"]}
CASES = {
    "context": case("context", 2 * 8, kind="dual"),
    "rounds": case("rounds", 2 * PROMPT, (("teacher", "prompt"), ("student", "prompt"))),
    "meta": case("meta", 2 * 8, (("host", "context"),), kind="dual", idle=()),
    "gates": case("gates", 2 * 2 * 8 * 16 + 3 * 8 + 3),
    "pair": case("pair", 2 * 8 + 3 * 16 + 3, data=BY_ROLE),
    "online": case("online", PROMPT, data=STREAM, options=replace(OPTIONS, steps=None, epochs=1, select=False)),
}
LEFT_OUT = {("pair", "wrong_backbone")}
"""A network of other weights for two roles of other sizes is not one network."""


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in CASES for name in CHECKS if name != "reload" and (kind, name) not in LEFT_OUT],
)
def test_conformance(kind, name, tmp_path):
    CHECKS[name](CASES[kind], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("check", [CHECKS["reload"], SLOW_CHECKS["two_processes"]])
def test_conformance_in_other_processes(kind, check, tmp_path):
    check(CASES[kind], tmp_path)


# ---- hosts -----------------------------------------------------------------------------------------------------------------


def test_two_rounds_equal_a_loop_written_by_hand(tmp_path):
    """Teacher and student are trained as if each were alone, and the student of the second round starts afresh."""
    whole = train(CASES["rounds"], tmp_path / "rounds")
    teacher, labels = make("prompt"), None
    plain = replace(OPTIONS, select=False)
    alone = CASES["rounds"]
    by_hand = build(alone)
    for number in range(2):
        if number:
            by_hand.host_of("student").reset("student", number)
        for role in ("teacher", "student"):
            host = by_hand.host_of(role)
            optimiser = torch.optim.SGD(host.parameters(), lr=0.0, momentum=0.9, weight_decay=1e-4)
            data = DATA["train"] if role == "teacher" else DATA["unlabeled"]
            stage = f"teach-{number}" if role == "teacher" else f"learn-{number}"
            for step, rows in enumerate(order_of(data, "train" if role == "teacher" else "u", plain.steps)):
                optimiser.param_groups[0]["lr"] = (
                    plain.lr * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / 5)).item())
                )
                batch = data.collate(rows, [data.sample(row, epoch=0, seed=0) for row in rows])
                target = batch.target if role == "teacher" else labels[rows]
                optimiser.zero_grad()
                F.cross_entropy(host(batch), target).backward()
                optimiser.step()
            if role == "teacher":
                everything = data_of(DATA["unlabeled"])
                labels = host(everything).argmax(-1)
            assert stage
    assert teacher.own_tensors().keys() == by_hand.host_of("teacher").own_tensors().keys()
    for name, tensor in by_hand.host_of("student").own_tensors().items():
        # The runner keeps what was best on validation; the loop keeps the last: they are compared without selection below.
        assert tensor.shape == whole.host_of("student").own_tensors()[name].shape
    last = train(replace(CASES["rounds"], options=plain), tmp_path / "last")
    for role in ("teacher", "student"):
        want = by_hand.host_of(role).own_tensors()
        for name, tensor in last.host_of(role).own_tensors().items():
            torch.testing.assert_close(tensor, want[name], rtol=1e-5, atol=1e-6)


def order_of(data, stream, steps):
    """Rows of each step: permutations keyed by (seed, stream, epoch)."""
    size, rows = min(9, len(data)), []
    per_epoch = -(-len(data) // size)
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        order = torch.randperm(len(data), generator=generator(0, "stream", stream, epoch)).tolist()
        rows.append(order[place * size : (place + 1) * size])
    return rows


def data_of(data):
    return data.collate(list(range(len(data))), [data.sample(row, epoch=None, seed=0) for row in range(len(data))])


def test_a_strategy_hands_on_what_it_does_not_define():
    strategy = make("meta", (("host", "context"),), "dual")
    host, batch = strategy.host, data_of(DATA["val"])
    torch.testing.assert_close(strategy(batch), host(batch), rtol=0, atol=0)
    assert strategy.own_tensors().keys() == {f"hosts.host.{name}" for name in host.own_tensors()}
    assert strategy.left_behind() is host
    before = copies(host.own_tensors())
    strategy.reset("again", 1)
    assert not torch.equal(host.context, before["context"])
    first = host.context.clone()
    strategy.reset("again", 1)
    assert torch.equal(host.context, first), "initial values depend on the key only"


def test_a_strategy_cannot_leave_a_host_whose_backbone_it_changed(monkeypatch):
    from tests.core.run.methods.rounds import Rounds

    plain = Rounds.__init__

    def claiming(self, config, backbones, task, hosts):
        plain(self, config, backbones, task, hosts)
        self.claimed = self.backbone.claim("mlp.*")

    monkeypatch.setattr(Rounds, "__init__", claiming)
    with pytest.raises(UserError, match="cannot hold the backbone weights that the strategy tunes \\(claimed\\)"):
        make("rounds", (("teacher", "prompt"), ("student", "prompt")))


# ---- other class names -----------------------------------------------------------------------------------------------------


def test_a_retargeted_method_shares_its_tensors_and_sees_what_functional_call_swaps():
    method, batch = make("context", kind="dual"), data_of(DATA["val"])
    names = ["dog", "eel", "fox", "ant"]
    view = method.retarget(method.task.with_classes(names))
    assert view.context is method.context
    assert view(batch).shape == (len(batch), 4)
    torch.testing.assert_close(view(batch)[:, 3], method(batch)[:, 0])
    other = {"context": method.context.detach() + 1}

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.method = method

        def forward(self, batch):
            return self.method(batch), view(batch)

    own, seen = functional_call(Both(), {"method.context": other["context"]}, (batch,))
    fresh = copy.deepcopy(view)
    with torch.no_grad():
        fresh.context.copy_(other["context"])
    torch.testing.assert_close(seen, fresh(batch))
    assert not torch.allclose(own, method(batch))


def test_a_head_belongs_to_its_classes():
    method = make("prompt")
    with pytest.raises(
        UserError, match="Prompt has a fixed label space: what it tuned belongs to its classes \\(ant, bee, cat"
    ):
        method.retarget(Classification(["dog", "eel"]))
    same = method.retarget(Classification(["ant", "bee", "cat"]))
    assert same.prompt is method.prompt


def test_the_meta_step_equals_plain_second_derivatives(tmp_path):
    """Recomputed or not, through the retargeted view or by hand: the same gradient of the same tensors."""
    results = []
    for recompute in (True, False):
        one = replace(
            CASES["meta"], make=partial(make, "meta", (("host", "context"),), "dual", {"recompute": recompute})
        )
        results.append(copies(train(one, tmp_path / str(recompute)).own_tensors()))
    for name, tensor in results[0].items():
        torch.testing.assert_close(tensor, results[1][name], rtol=1e-5, atol=1e-7)
    # One outer gradient by hand.
    method, batch = make("meta", (("host", "context"),), "dual"), data_of(DATA["train"])
    part = {"train": batch}
    (got,) = torch.autograd.grad(method.outer(part)[0], [method.host.context])
    dual, context = method.backbone, method.host.context
    chosen = (batch.target < 2).nonzero().flatten()
    inputs, target, half = batch.inputs[chosen], batch.target[chosen], len(chosen) // 2

    def loss(vectors, rows):
        names = dual.text.encode_words(["ant", "bee"], edits={"input": Insert(vectors)})
        return F.cross_entropy(dual.compare(dual.image(inputs[rows]).tokens.mean(1), names), target[rows])

    with reference_kernels():
        (inner,) = torch.autograd.grad(loss(context, slice(0, half)), [context], create_graph=True)
        (want,) = torch.autograd.grad(loss(context - 0.3 * inner, slice(half, None)), [context])
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)


def test_recomputation_takes_tensors_as_arguments():
    """What is closed over is not what `functional_call` swapped when the segment runs again; arguments are."""
    layer = nn.Linear(3, 3)
    swapped = {name: tensor.detach().clone().requires_grad_() for name, tensor in layer.named_parameters()}
    x = torch.randn(2, 3, generator=generator("x"), requires_grad=True)

    def run(x, weight, bias):
        return functional_call(layer, {"weight": weight, "bias": bias}, (x,)).tanh()

    got = torch.autograd.grad(recomputed(run, x, *swapped.values()).square().sum(), [x, *swapped.values()])
    want = torch.autograd.grad(run(x, *swapped.values()).square().sum(), [x, *swapped.values()])
    for one, two in zip(got, want, strict=True):
        torch.testing.assert_close(one, two)


# ---- steps over micro-batches ----------------------------------------------------------------------------------------------


def test_two_backwards_over_masked_weights_equal_a_loop_written_by_hand(tmp_path):
    options = replace(OPTIONS, select=False, steps=3)
    method = train(replace(CASES["gates"], options=options), tmp_path / "run")
    hand = build(CASES["gates"])
    optimiser = torch.optim.SGD(hand.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-4)
    for step, rows in enumerate(order_of(DATA["train"], "train", 3)):
        optimiser.param_groups[0]["lr"] = options.lr * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / 3)).item())
        batch = DATA["train"].collate(rows, [DATA["train"].sample(row, epoch=0, seed=0) for row in rows])
        named = dict(hand.named_parameters())
        fit = torch.autograd.grad(F.cross_entropy(hand(batch), batch.target), list(named.values()))
        closing = torch.autograd.grad(hand.gate_loss({"train": batch})[0], list(named.values()), allow_unused=True)
        for tensor, one, two in zip(named.values(), fit, closing, strict=True):
            tensor.grad = combined(one, two)
        optimiser.step()
    for name, tensor in method.own_tensors().items():
        torch.testing.assert_close(tensor, hand.own_tensors()[name], rtol=1e-5, atol=1e-6)


def test_masks_change_what_the_network_computes_for_that_call_only():
    method, batch = make("gates"), data_of(DATA["val"])
    before = copies(dict(method.backbone.module.named_parameters()))
    plain = method.backbone(batch.inputs).tokens
    bound = method.backbone.bound(method.masked())
    torch.testing.assert_close(
        bound(batch.inputs).tokens, method.backbone(batch.inputs, weights=method.masked()).tokens
    )
    assert not torch.allclose(bound(batch.inputs).tokens, plain)
    torch.testing.assert_close(method.backbone(batch.inputs).tokens, plain, rtol=0, atol=0)
    for name, tensor in method.backbone.module.named_parameters():
        assert torch.equal(tensor, before[name])


def test_gradients_do_not_leak_into_a_later_update(tmp_path):
    method = train(CASES["gates"], tmp_path / "run")
    assert all(parameter.grad is None for parameter in method.parameters())


# ---- a stream with replay --------------------------------------------------------------------------------------------------


def test_labels_grow_and_the_memory_holds_the_latest_samples(tmp_path):
    order = sorted(range(27), key=lambda row: DATA["train"].labels[row])
    from pt_core.run.data.sampling import SubsetDataset

    data = {"train": SubsetDataset(DATA["train"], order), "val": DATA["val"]}
    seen = []
    one = replace(CASES["online"], data=data)
    method = build(one)
    plain = method.of_seen

    def noting(dataset, step):
        part = plain(dataset, step)
        seen.append((step, sorted(set(part.labels))))
        return part

    method.of_seen = noting
    train(one, tmp_path / "run", method, options=replace(one.options, eval_every=1))
    assert seen == [(1, [0]), (2, [0, 1]), (3, [0, 1, 2])]
    assert method.memory.tolist() == list(range(21, 27)), "nine per draw, the last six are kept"


def test_a_repeated_batch_is_drawn_again_with_other_augmentation():
    from pt_core.run.data.streams import Shard, StreamReader
    from pt_core.stage import Stream

    reader = StreamReader("s", Stream("train", shuffle=False, repeat=3), DATA["train"], 9, 0, Shard())
    draws = [reader.draw(number)[0] for number in range(reader.draws_per_epoch)]
    assert reader.draws_per_epoch == 9
    assert [[row for row, _ in draw] for draw in draws[:3]] == [list(range(9))] * 3
    assert [draw[0][1] for draw in draws[:3]] == [0, 1, 2]
    assert draws[3][0] == (9, 0)


# ---- two networks, two towers ----------------------------------------------------------------------------------------------


def test_both_networks_see_one_augmentation_draw():
    data = BY_ROLE["train"]
    sample = data.sample(3, epoch=1, seed=0)
    torch.testing.assert_close(sample["coarse"], sample["fine"].view(2, 2).mean(1))
    assert not torch.equal(sample["fine"], data.sample(3, epoch=2, seed=0)["fine"])


def test_two_towers_are_one_backbone_with_parts():
    dual = tiny_dual(3)
    assert {"image.tokens[l]", "text.input"} <= dual.sites
    claim = dual.claim("image.mlp.*", "text.out.weight")
    assert {name.partition(".")[0] for name in claim.tensors()} == {"image", "text"}
    batch, names = data_of(DATA["val"]).inputs, TinyText.tokenize(["ant", "bee"])
    before = dual({"image": batch, "text": names}, {"text.input": Insert(torch.zeros(2, 8))})
    with torch.no_grad():
        for tensor in claim.parameters():
            tensor.mul_(1.5)
    after = dual({"image": batch, "text": names}, {"text.input": Insert(torch.zeros(2, 8))}, weights=claim)
    for tower in ("image", "text"):
        assert not torch.allclose(before[tower].tokens, after[tower].tokens), tower
    torch.testing.assert_close(dual.image(batch).tokens, before["image"].tokens, rtol=0, atol=0)
    with pytest.raises(UserError, match="has no part 'txt' \\(did you mean 'text'\\?\\)"):
        dual({"image": batch}, {"txt.input": Insert(torch.zeros(2, 8))})


def test_a_tower_that_is_not_needed_is_not_compared(tmp_path):
    from pt_core.saving import card_of, save_artifact

    method = make("context", kind="dual")
    save_artifact(tmp_path / "tuned", method, card_of(method, "pt-toy/context"))
    from pt_core.artifact import read_artifact

    artifact = read_artifact(tmp_path / "tuned")
    assert artifact.check_backbone("backbone", tiny_dual(0)) == []
    assert artifact.check_backbone("backbone", tiny_dual(0, text=False)) == []
    with pytest.raises(BackboneMismatch, match="'dual:1:image' is"):
        artifact.check_backbone("backbone", tiny_dual(1, text=False))


# ---- warm starts -----------------------------------------------------------------------------------------------------------


def test_heads_are_left_fresh_where_the_classes_differ(tmp_path):
    from pt_core.artifact import read_artifact
    from pt_core.saving import card_of, save_artifact

    earlier = make("pair")
    save_artifact(tmp_path / "tuned", earlier, card_of(earlier, "pt-toy/pair"))
    artifact = read_artifact(tmp_path / "tuned", training=True)
    later = make("pair", names=("dog", "eel"))
    head = later.head.weight.detach().clone()
    later.warm_start("", artifact)
    assert torch.equal(later.prompt, earlier.prompt)
    assert torch.equal(later.head.weight, head)
    again = make("pair")
    again.warm_start("", artifact)
    assert torch.equal(again.head.weight, earlier.head.weight)
    with pytest.raises(UserError, match="this method has no such role; it has: none"):
        later.warm_start("ctx", artifact)


def test_a_host_says_how_its_tensors_change_their_size(tmp_path):
    from pt_core.artifact import read_artifact
    from pt_core.saving import card_of, save_artifact

    earlier = make("context", kind="dual")
    save_artifact(tmp_path / "tuned", earlier, card_of(earlier, "pt-toy/context"))
    artifact = read_artifact(tmp_path / "tuned", training=True)
    later = make("context", kind="dual", config={"length": 3})
    later.warm_start("", artifact)
    assert torch.equal(later.context, earlier.context[[0, 1, 0]])
    with pytest.raises(UserError, match="holds a 'context', 'prompt' cannot start from it"):
        make("prompt").warm_start("", artifact)
    longer = make("prompt")
    with pytest.raises((ArtifactError, UserError)):
        longer.warm_start("", artifact)


# ---- what broke when it was tried ------------------------------------------------------------------------------------------


def test_misspelt_weights_are_refused_and_towers_can_be_bound():
    backbone, batch = TinyBackbone(), data_of(DATA["val"]).inputs
    with pytest.raises(UserError, match="has no weight 'mlp.0.0.weigth' \\(did you mean 'mlp.0.0.weight'"):
        backbone(batch, weights={"mlp.0.0.weigth": torch.zeros(1)})
    with pytest.raises(UserError, match="has no weight"):
        backbone.bound({"nothing": torch.zeros(1)})
    dual = tiny_dual()
    own = dict(dual.module.named_parameters())
    bound = dual.bound({"image.mlp.0.0.weight": own["image.mlp.0.0.weight"] * 2})
    want = dual.image(batch, weights={"mlp.0.0.weight": own["image.mlp.0.0.weight"] * 2}).tokens
    torch.testing.assert_close(bound({"image": batch})["image"].tokens, want)
    torch.testing.assert_close(bound.image(batch).tokens, want)
    assert not torch.allclose(dual.image(batch).tokens, want)


def test_two_towers_with_other_weights_or_another_scale_are_told_apart(tmp_path):
    from pt_core.artifact import read_artifact
    from pt_core.saving import card_of, save_artifact

    method = make("context", kind="dual")
    save_artifact(tmp_path / "tuned", method, card_of(method, "pt-toy/context"))
    artifact = read_artifact(tmp_path / "tuned")
    louder = tiny_dual(0)
    louder.preprocessing["scale"] = 100.0
    with pytest.raises(BackboneMismatch, match="preprocessing"):
        artifact.check_backbone("backbone", louder)
    other = tiny_dual(0)
    other.fingerprints()
    weight = dict(other.module.named_parameters())["image.mlp.0.0.weight"]
    other.replaced({"image.mlp.0.0.weight": weight + 1}, "run:x")
    with pytest.raises(BackboneMismatch):
        artifact.check_backbone("backbone", other)


def test_a_claim_is_folded_into_the_network_it_was_made_of():
    method = make("pair")
    method.claimed = method.backbones["coarse"].claim("mlp.*")
    assert set(method.folded()) == {"coarse"}


def test_hidden_labels_stay_hidden_behind_the_feature_cache():
    from pt_core.run.data.unlabelled import Unlabelled

    class Filled:
        ids, labels = ["a"], [0]

        def with_frozen(self, features):
            return self

    assert Unlabelled(Filled()).with_frozen(None).labels is None


def test_a_training_step_draws_under_its_batchs_keys_whoever_calls_it():
    from pt_core.data import Batch
    from pt_core.randomness import current_rows, keyed

    from tests.core.run.methods.prompt import Prompt

    seen = []

    class Drawing(Prompt):
        def training_step(self, batch):
            seen.append(current_rows())
            return super().training_step(batch)

    method = Drawing(Prompt.Config(), {"backbone": TinyBackbone()}, Classification(["a", "b", "c"]))
    plain = data_of(DATA["val"])
    assert isinstance(plain, Batch)
    batch = keyed(plain, 0, "step")
    method.training_step(batch)
    method.training_step(plain)
    assert torch.equal(seen[0], batch.keys)
    assert seen[1] is None


def test_a_strategy_without_stages_has_its_hosts_with_their_prefix():
    from pt_core.stage import Optimiser, Stage
    from pt_core.strategy import Strategy

    class Plain(Strategy):
        pass

    def with_host(name, kind="tiny"):
        return Plain(
            None, {"backbone": network(kind)}, Classification(["a", "b", "c"]), {"host": make(name, kind=kind)}
        )

    (stage,) = with_host("prompt").stages(None)
    assert stage.trains == ("hosts.host.*",)
    (stage,) = with_host("gates").stages(None)
    assert stage.step_parts is not None
    own = Stage("s", optimisers={"main": Optimiser(("head.*",))}).under("hosts.host.")
    assert own.optimisers["main"].params == ("hosts.host.head.*",)
    assert Stage("s", trains=("hosts.*",)).within("hosts.host.").trains == ("*",)
    assert Stage("s", trains=("hosts.other.*",)).within("hosts.host.").trains == ()


def test_a_method_that_declares_nothing_does_not_start_from_other_classes(tmp_path):
    from pt_core.artifact import read_artifact
    from pt_core.saving import card_of, save_artifact

    earlier = make("prompt")
    save_artifact(tmp_path / "tuned", earlier, card_of(earlier, "pt-toy/prompt"))
    artifact = read_artifact(tmp_path / "tuned", training=True)
    with pytest.raises(UserError, match="does not say which of its tensors belong to them"):
        make("prompt", names=("dog", "eel", "fox")).warm_start("", artifact)


def test_roles_that_share_options_take_what_is_given_for_either():
    from pt_core.run.declare.resolve import _host_config
    from pt_core.run.declare.spec import HostSpec as Spec

    kind = Toy.registry.load("prompt")
    done = {"student": Spec("prompt", kind.Config(length=5))}
    layers = {"student.length": 5, "teacher.auxiliary": True}
    assert _host_config("student", "teacher", kind, layers, done) == kind.Config(length=5, auxiliary=True)
    assert _host_config("student", "teacher", kind, {"student.length": 5}, done) == kind.Config(length=5)
    other = Toy.registry.load("context")
    assert _host_config("student", "teacher", other, {"student.length": 5}, done) == other.Config()
