"""A fingerprint tells networks apart by their weights, whatever their names, order or storage dtype."""

import copy

import pytest
import torch
from pt_core.fingerprint import Fingerprint, fingerprint_tensors
from torch import nn


def net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30), nn.Linear(30, 7))


def of(module):
    return fingerprint_tensors(module.state_dict().values())


def test_equal_weights_are_the_same_in_any_order_and_under_any_name():
    tensors = list(net().state_dict().values())
    assert fingerprint_tensors(tensors[::-1]) == of(net())
    assert fingerprint_tensors([t.clone() for t in tensors]).compare(of(net())) == "same"


def test_json_round_trip():
    assert Fingerprint.from_json(of(net()).to_json()) == of(net())


def test_seeds_differ():
    assert of(net(0)).compare(of(net(1))) == "different"


@pytest.mark.parametrize(
    "name", ["0.weight", "0.bias", "1.weight", "1.running_mean", "1.num_batches_tracked", "2.bias"]
)
def test_a_change_of_any_one_tensor_is_seen(name):
    other = net()
    other.state_dict()[name].add_(1)
    assert of(other).compare(of(net())) == "different"


def test_swapping_values_between_equal_shapes_is_not_seen_but_reshaping_is():
    a, b = torch.arange(6.0), torch.arange(6.0) + 10
    assert fingerprint_tensors([a, b]).exact == fingerprint_tensors([b, a]).exact
    assert fingerprint_tensors([a.reshape(2, 3), b]).exact != fingerprint_tensors([a, b]).exact


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_low_precision_copy_is_recast_not_different(dtype):
    whole, low = net(), copy.deepcopy(net()).to(dtype)
    assert of(whole).compare(of(low)) == "recast"
    assert of(low).compare(of(whole)) == "recast"
    assert of(copy.deepcopy(net(1)).to(dtype)).compare(of(whole)) == "different"


def test_other_weights_of_equal_dtype_are_not_excused_by_rounding():
    close = net()
    with torch.no_grad():
        close[0].weight += 1e-7  # equal after rounding to bf16
    assert of(close).compare(of(net())) == "different"


def test_counts_and_dtype():
    found = of(net())
    floats = [t for t in net().state_dict().values() if t.is_floating_point()]
    assert found.parameters == sum(t.numel() for t in floats)
    assert found.dtype == "float32"


def test_user_generators_are_left_alone():
    state = torch.random.get_rng_state()
    of(net())
    assert torch.equal(state, torch.random.get_rng_state())
