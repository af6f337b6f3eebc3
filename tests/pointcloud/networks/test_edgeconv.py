"""EdgeConv: the double loop, all pairs, neighbours per layer, and the rewrite without edges: values, gradients, statistics, cost."""

from __future__ import annotations

import copy

import pytest
import torch
from pt_core.data import generator
from pt_core.kernels import reference_kernels
from pt_core.kernels.flops import flop_counter
from pt_pointcloud.networks.edgeconv import EdgeConv, feature_neighbours
from pt_pointcloud.networks.prompts import DGCNN, build_prompt_module
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from tests.pointcloud.common import close


def tokens(batch: int = 3, count: int = 10, dim: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(batch, count, dim, generator=generator("tokens", batch, count, dim, seed), dtype=torch.float64)


def layer(dim: int = 6, k: int = 4, seed: int = 0, dead: bool = False) -> EdgeConv:
    """In float64, every tensor away from its initial value; a third of the scales is negative, and with `dead` one is zero."""
    made = EdgeConv(dim, k).double()
    with torch.no_grad():
        for name, tensor in made.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator("layer", name, seed), dtype=torch.float64))
        made.norm.running_var.abs_().add_(0.1)
        made.norm.weight[: dim // 3] *= -made.norm.weight[: dim // 3].sign()
        if dead:
            made.norm.weight[-1] = 0
    return made


def loops(conv: EdgeConv, u: Tensor, k: int) -> Tensor:
    """The paper's sentence, token by token and neighbour by neighbour; eval mode."""
    norm, out = conv.norm, torch.empty_like(u)
    for b in range(u.shape[0]):
        for i in range(u.shape[1]):
            distance = (u[b] - u[b, i]).square().sum(1)
            values = []
            for j in distance.argsort()[:k]:
                edge = conv.conv.weight @ torch.cat([u[b, j] - u[b, i], u[b, i]])
                edge = (edge - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
                values.append(F.leaky_relu(edge, 0.2))
            out[b, i] = torch.stack(values).amax(0)
    return out


@pytest.mark.parametrize("k", [1, 4, 10])
def test_it_is_the_double_loop(k):
    conv, u = layer(k=k, dead=True).eval(), tokens()
    want = loops(conv, u, k)
    close(conv(u), want, 1e-10)
    with reference_kernels():
        close(conv(u), want, 1e-10)


def test_as_many_neighbours_as_tokens_are_all_pairs():
    conv, u = layer(k=10).eval(), tokens()
    every = torch.arange(10).expand(3, 10, 10)
    close(conv(u), conv.edges(u, every), 1e-10)


def test_the_token_itself_is_among_its_neighbours():
    idx = feature_neighbours(tokens(), 3)
    assert (idx[..., 0] == torch.arange(10)).all()
    shifted = feature_neighbours(tokens() + 1000.0, 3)
    assert torch.equal(idx, shifted)


@pytest.mark.parametrize("training", [True, False])
def test_values_gradients_and_statistics_are_those_of_the_edges(training):
    fast, u = layer().train(training), tokens().requires_grad_()
    slow, v = copy.deepcopy(fast), u.detach().clone().requires_grad_()
    idx = feature_neighbours(u, 4)
    have, want = fast.rewritten(u, idx), slow.edges(v, idx)
    close(have, want, 1e-10)
    weight = tokens(seed=3)
    (have * weight).sum().backward()
    (want * weight).sum().backward()
    close(u.grad, v.grad, 1e-9)
    for a, b in zip(fast.parameters(), slow.parameters(), strict=True):
        close(a.grad, b.grad, 1e-9)
    for a, b in zip(fast.buffers(), slow.buffers(), strict=True):
        close(a.double(), b.double(), 1e-10)


def test_float32_stays_close_where_tokens_share_a_large_part():
    conv = EdgeConv(32, 8)
    u = torch.randn(4, 30, 32, generator=generator("large")) + 30.0
    exact = copy.deepcopy(conv).double()
    idx = feature_neighbours(u, 8)
    want = exact.edges(u.double(), idx)
    rewritten = (conv.rewritten(u, idx) - want).abs().max()
    assert rewritten <= 2e-4 * want.abs().max()
    assert rewritten <= 3 * (conv.edges(u, idx) - want).abs().max()


def test_statistics_are_over_all_edges_and_match_batchnorm():
    conv, u = layer().train(), tokens()
    idx = feature_neighbours(u, 4)
    rows = torch.arange(3)[:, None, None]
    edges = conv.conv(torch.cat([u[rows, idx] - u[:, :, None], u[:, :, None].expand(-1, -1, 4, -1)], -1)).flatten(0, 2)
    norm = nn.BatchNorm1d(6).double()
    norm(edges)
    conv.norm.running_mean.zero_()
    conv.norm.running_var.fill_(1)
    conv.norm.num_batches_tracked.zero_()
    conv.rewritten(u, idx)
    close(conv.norm.running_mean, norm.running_mean, 1e-10)
    close(conv.norm.running_var, norm.running_var, 1e-10)
    assert int(conv.norm.num_batches_tracked) == 1


def test_layers_find_their_own_neighbours(monkeypatch):
    from pt_pointcloud.networks import edgeconv

    found = []

    def watched(u: Tensor, k: int) -> Tensor:
        found.append(feature_neighbours(u, k))
        return found[-1]

    monkeypatch.setattr(edgeconv, "feature_neighbours", watched)
    module = DGCNN(6, 4).double().eval()
    with torch.no_grad():
        for number, conv in enumerate(module.layers):
            conv.conv.weight.copy_(torch.randn(6, 12, generator=generator("w", number), dtype=torch.float64))
    module(tokens())
    assert len(found) == 3
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


def test_too_many_neighbours_are_clamped_with_a_warning():
    conv, u = layer(k=20).eval(), tokens()
    with pytest.warns(UserWarning, match="k=20 neighbours among 10 tokens"):
        have = conv(u)
    close(have, layer(k=10).eval()(u), 1e-12)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("dgcnn", 3 * (2 * 384 * 384 + 2 * 384) + (3 * 384 * 384 + 2 * 384)),
        ("dgcnn1", 2 * 384 * 384 + 2 * 384 + 384 * 384 + 2 * 384),
        ("dgcnn2", 2 * (2 * 384 * 384 + 2 * 384) + 2 * 384 * 384 + 2 * 384),
        ("mlp", 384 * 384 + 2 * 384),
        ("transformer", 12 * 384 * 384 + 10 * 384),
    ],
)
def test_counts_of_the_prompt_modules(name, count):
    assert sum(p.numel() for p in build_prompt_module(name, 384, 20, 6).parameters()) == count
    assert name != "dgcnn" or count == 1_330_176


@pytest.mark.parametrize("name", ["dgcnn", "dgcnn1", "dgcnn2", "mlp", "transformer"])
def test_prompt_modules_do_not_depend_on_the_order_of_tokens(name):
    module, u, at = build_prompt_module(name, 6, 4, 2).double().eval(), tokens(), tokens(seed=1)
    order = torch.randperm(10, generator=generator("order"))
    prompt = module(u, at)
    assert prompt.shape == (3, 1, 6)
    close(module(u[:, order], at[:, order]), prompt, 1e-10)
    assert (prompt[0] - prompt[1]).abs().max() > 1e-3


def cost(run, u: Tensor) -> tuple[int, int]:
    """(operations of forward and backward, bytes kept for the backward pass)."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with flop_counter() as counter:
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            out = run(u)
        out.sum().backward()
    return counter.get_total_flops(), sum(kept.values())


def test_the_rewrite_needs_a_fifth_of_the_operations_and_a_quarter_of_the_memory():
    """G = 128 tokens, k = 20; C = 48 keeps the test small, the ratio of the products does not depend on it but through the k-NN."""
    conv = EdgeConv(48, 20).train()
    u = torch.randn(2, 128, 48, generator=generator("cost")).requires_grad_()
    fast = cost(conv, u)
    with reference_kernels():
        slow = cost(conv, u)
    assert fast[0] <= slow[0] / 5
    assert fast[1] <= slow[1] / 4
