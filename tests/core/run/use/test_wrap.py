"""A method on one's own network as a plain module: in a bare loop, in HF Trainer, in Lightning Fabric."""

import copy

import pytest
import torch
from pt_core.errors import ConfigError, UserError
from pt_core.run.command.api import Api
from pt_core.testing.tiny import TinyNet
from torch import nn
from torch.nn import functional as F

from tests.core.run.toy import Toy, vectors
from tests.loops import Named, by_fabric, by_trainer

API = Api(Toy)
DATA = vectors(48)
X, Y = DATA.values, torch.tensor(DATA.labels)


def network():
    torch.manual_seed(3)
    return TinyNet()


def wrapped(**options):
    return API.wrap(network(), "prompt", classes=3, **options)


def accuracy(module):
    with torch.no_grad():
        return float((module.eval()(X).argmax(-1) == Y).float().mean())


def frozen(module):
    return {name: tensor.clone() for name, tensor in module.method.backbone.module.named_parameters()}


def test_a_bare_loop_trains_what_is_tuned_and_nothing_else(tmp_path):
    module = wrapped(length=3)
    before, start = frozen(module), accuracy(module)
    assert sum(p.numel() for p in module.parameters()) == 2 * 3 * 8 + 3 * 8 + 3
    assert set(module.state_dict()) == {"method.prompt", "method.head.weight", "method.head.bias"}
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    module.train()
    assert not module.method.backbone.module.training
    for _ in range(80):
        optimiser.zero_grad()
        F.cross_entropy(module(X), Y).backward()
        optimiser.step()
    assert accuracy(module) > max(0.8, start)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.method.backbone.module.named_parameters())
    module.save(tmp_path / "tuned", {"accuracy": accuracy(module)})
    again = API.load(tmp_path / "tuned", backbone=network(), device="cpu").module()
    with torch.no_grad():
        assert torch.equal(again(X), module.eval()(X))
    with pytest.raises(UserError, match="tuned on a TinyNet of your own: pass that network as backbone="):
        API.load(tmp_path / "tuned")


def test_hf_trainer_trains_it(tmp_path):
    module = wrapped()
    before, start = frozen(module), accuracy(module)
    by_trainer(Named(module), {"inputs": X, "labels": Y}, tmp_path, 60, 16)
    assert accuracy(module) > max(0.8, start)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.method.backbone.module.named_parameters())


def test_lightning_fabric_trains_it():
    module = wrapped()
    start = accuracy(module)
    module = by_fabric(module, lambda prepared: F.cross_entropy(prepared(X), Y), 80, 0.02)
    assert accuracy(module) > max(0.8, start)


def test_it_moves_as_one_and_copies_share_the_frozen_network():
    module = wrapped()
    other = copy.deepcopy(module)
    assert other.method.backbone is module.method.backbone
    assert other.method.prompt is not module.method.prompt
    with torch.no_grad():
        assert torch.equal(other.eval()(X), module.eval()(X))
        other.method.prompt.add_(1)
        assert not torch.equal(other(X), module(X))
    double = wrapped().double()
    assert {p.dtype for p in [*double.parameters(), *double.method.backbone.module.parameters()]} == {torch.float64}
    assert double(X.double()).dtype == torch.float64
    meta = wrapped().to("meta")
    assert {p.device.type for p in [*meta.parameters(), *meta.method.backbone.module.parameters()]} == {"meta"}
    half = wrapped().bfloat16()
    assert half(X.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "cast",
    [lambda m: m.half(), lambda m: m.to(torch.bfloat16), lambda m: m.double(), lambda m: m.to_empty(device="cpu")],
    ids=["half", "to", "double", "to_empty"],
)
def test_what_would_change_a_shared_network_is_refused_and_changes_nothing(cast):
    module = wrapped()
    with torch.no_grad():
        before = module.eval()(X)
    tuned = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    other = copy.deepcopy(module)
    for one in (other, module):
        with pytest.raises(UserError, match="shared with a deep copy.*cast before copying, or wrap copy.deepcopy"):
            cast(one)
        with torch.no_grad():
            assert torch.equal(one.eval()(X), before)
        assert all(torch.equal(tensor, tuned[name]) for name, tensor in one.state_dict().items())
    assert module.float().cpu() is module  # what changes nothing may be asked for
    del other, one
    cast(module)  # nobody else uses it any more
    assert module.method.backbone.module is not None


def test_two_methods_on_one_network_share_it_as_copies_do():
    shared = network()
    one, two = (API.wrap(shared, "prompt", classes=3, seed=seed) for seed in (0, 1))
    with torch.no_grad():
        before = two.eval()(X)
    with pytest.raises(UserError, match="another method on the same network"):
        one.half()
    with torch.no_grad():
        assert torch.equal(two(X), before)
    own = API.wrap(copy.deepcopy(shared), "prompt", classes=3).half()
    assert own(X.half()).dtype == torch.float16
    one.to("meta")  # devices are changed together
    assert {p.device.type for p in two.method.backbone.module.parameters()} == {"meta"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_rows_of_large_batches_are_counted_in_whole_numbers(dtype):
    batch = Toy().plain_batch(None, (torch.zeros(3000, 4, dtype=dtype),), {})
    assert batch.index.dtype == torch.int64
    assert batch.index.tolist() == list(range(3000))


def test_initial_values_depend_on_the_seed_only():
    torch.manual_seed(1)
    one = wrapped(seed=4)
    torch.manual_seed(2)
    assert torch.equal(one.method.prompt, wrapped(seed=4).method.prompt)
    assert not torch.equal(one.method.prompt, wrapped(seed=5).method.prompt)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("rounds", "'rounds' is built from several networks or methods \\(teacher, student\\); train it with `fit`"),
        ("pair", "'pair' is built from several networks or methods \\(fine, coarse\\)"),
        ("gates", "'gates' has stages, jobs or steps of its own \\(train\\); train it with `fit`"),
        ("online", "'online' has stages, jobs or steps of its own \\(stream\\)"),
    ],
)
def test_what_a_plain_loop_would_leave_out_is_refused(method, said):
    with pytest.raises(UserError, match=said):
        API.wrap(network(), method, classes=3)


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="unknown option 'lenght' \\(did you mean 'length'\\?\\)"):
        wrapped(lenght=3)
    with pytest.raises(UserError, match="pt-toy has no adapter for a Linear"):
        API.wrap(nn.Linear(4, 4), "prompt", classes=3)
    with pytest.raises(TypeError, match="take one tensor of inputs"):
        wrapped()(X, X)
