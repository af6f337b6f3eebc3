"""prompt_attention: all implementations give the values and gradients of an explicit loop; switch and counter work."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pt_core.kernels import (
    _split as split_module,
    fast_paths_enabled,
    flop_counter,
    prompt_attention,
    reference_kernels,
)
from pt_core.kernels._flex import flex_prompt_attention
from pt_core.kernels._inputs import check
from pt_core.kernels._split import split_attention
from pt_core.kernels.prompt_attention import concat_attention, split_pays
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 3e-2}
ROWS, HEADS, DIM = 4, 4, 8


def tensors(
    rows: int = ROWS,
    heads: int = HEADS,
    kv_heads: int | None = None,
    queries: int = 6,
    tokens: int = 6,
    prompt: int = 3,
    prompt_rows: int = 1,
    dim: int = DIM,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> list[Tensor]:
    """q, k, v, prompt_k, prompt_v with gradients, the same numbers at every call."""
    generator = torch.Generator().manual_seed(0)
    kv_heads = heads if kv_heads is None else kv_heads
    shapes = [(rows, heads, queries, dim)] + [(rows, kv_heads, tokens, dim)] * 2
    shapes += [(prompt_rows, kv_heads, prompt, dim)] * 2
    values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [value.to(device, dtype).requires_grad_() for value in values]


def by_loops(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prompt_k: Tensor,
    prompt_v: Tensor,
    *,
    index: Tensor | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """The definition, one query at a time, without SDPA."""
    rows, heads, queries, dim = q.shape
    tokens, group = k.shape[2], heads // k.shape[1]
    mask = torch.ones(1, dtype=torch.bool) if mask is None else mask
    full = mask.expand(rows, heads, queries, tokens)
    out = 0.0 * q
    for row, head, query in itertools.product(range(rows), range(heads), range(queries)):
        source = int(index[row]) if index is not None else (row if prompt_k.shape[0] > 1 else 0)
        keys, values = list(prompt_k[source, head // group]), list(prompt_v[source, head // group])
        bias = [0.0 * q.sum()] * len(keys)
        for token in range(tokens):
            entry = full[row, head, query, token]
            if entry.dtype == torch.bool:
                entry = torch.zeros((), dtype=q.dtype) if entry else torch.full((), -math.inf, dtype=q.dtype)
            if entry == -math.inf or (causal and token > query + tokens - queries):
                continue
            keys.append(k[row, head // group, token])
            values.append(v[row, head // group, token])
            bias.append(entry)
        if not keys:
            continue
        factor = dim**-0.5 if scale is None else scale
        scores = [factor * (q[row, head, query] * key).sum() + b for key, b in zip(keys, bias, strict=True)]
        weights = torch.stack(scores).softmax(0)
        out[row, head, query] = sum(weight * value for weight, value in zip(weights, values, strict=True))
    return out


def values_and_gradients(kernel: Callable[..., Tensor], inputs: list[Tensor], **options: Any) -> list[Tensor]:
    out = kernel(*inputs, **options)
    generator = torch.Generator().manual_seed(1)
    seed = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.device, out.dtype)
    gradients = torch.autograd.grad(out, inputs, seed, allow_unused=True, materialize_grads=True)
    return [out.detach(), *gradients]


def assert_near(result: list[Tensor], reference: list[Tensor], tolerance: float) -> None:
    names = ("out", "q", "k", "v", "prompt_k", "prompt_v")
    for name, have, want in zip(names, result, reference, strict=True):
        assert have.shape == want.shape, name
        if want.numel():
            error = (have.double() - want.double()).abs().max()
            assert error <= tolerance * max(float(want.double().abs().max()), 1e-30), f"{name}: {error}"


def padding(keep: tuple[int, ...] = (6, 4, 1, 0), tokens: int = 6) -> Tensor:
    """Bool (rows, 1, 1, tokens): row i sees its first keep[i] tokens."""
    return (torch.arange(tokens) < torch.tensor(keep)[:, None])[:, None, None]


def additive(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -math.inf)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


HOLES = noise(ROWS, HEADS, 6, 6) > 0.3
HOLES[1, 2, 3] = False  # one query that sees no own token
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "full": ({}, {}),
    "causal": ({}, {"causal": True}),
    "causal, fewer queries": ({"queries": 3}, {"causal": True}),
    "causal, fewer tokens": ({"tokens": 4}, {"causal": True}),  # the first two queries see no own token
    "causal, one query": ({"queries": 1}, {"causal": True}),
    "scale": ({}, {"scale": 0.7}),
    "padding, bool, one row blind": ({}, {"mask": padding()}),
    "padding, float, one row blind": ({}, {"mask": additive(padding())}),
    "padding and causal": ({}, {"mask": padding(), "causal": True}),
    "float padding and causal": ({}, {"mask": additive(padding()), "causal": True}),
    "left padding and causal": ({}, {"mask": padding().flip(-1), "causal": True}),
    "lowest number for minus infinity": ({}, {"mask": (~padding()).double() * torch.finfo(torch.float32).min}),
    "holes, one query blind": ({}, {"mask": HOLES}),
    "bias": ({}, {"mask": noise(HEADS, 6, 6)}),
    "mask of the queries": ({}, {"mask": HOLES[:, :1, :, :1]}),
    "mask of two axes": ({}, {"mask": HOLES[0, 0]}),
    "nothing of its own visible": ({}, {"mask": torch.zeros(1, dtype=torch.bool)}),
    "grouped query": ({"kv_heads": 2}, {}),
    "one key head, causal": ({"kv_heads": 1}, {"causal": True}),
    "grouped query, per row, padding": ({"kv_heads": 2, "prompt_rows": ROWS}, {"mask": padding()}),
    "per row": ({"prompt_rows": ROWS}, {}),
    "per row, causal": ({"prompt_rows": ROWS}, {"causal": True}),
    "bank": ({"prompt_rows": 3}, {"index": torch.tensor([2, 0, 2, 1])}),
    "bank of one": ({"prompt_rows": 1}, {"index": torch.tensor([0, 0, 0, 0])}),
    "bank with unused rows, padding": ({"prompt_rows": 7}, {"index": torch.tensor([5, 1, 1, 5]), "mask": padding()}),
    "one row": ({"rows": 1}, {}),
    "one prompt": ({"prompt": 1}, {}),
    "many prompts, odd head_dim": ({"prompt": 40, "dim": 7}, {}),
    "one token, one query": ({"tokens": 1, "queries": 1}, {}),
}
EMPTY: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no prompt": ({"prompt": 0}, {}),
    "no prompt, causal": ({"prompt": 0}, {"causal": True}),
    "no prompt, causal, fewer queries": ({"prompt": 0, "queries": 4}, {"causal": True}),
    "no prompt, one row blind": ({"prompt": 0}, {"mask": padding()}),
    "no prompt per row": ({"prompt": 0, "prompt_rows": ROWS}, {"mask": padding(), "causal": True}),
    "no own tokens": ({"tokens": 0}, {}),
    "no queries": ({"queries": 0}, {}),
}


@pytest.mark.parametrize("case", [*CASES, *EMPTY])
def test_the_reference_is_the_definition(case: str) -> None:
    sizes, options = {**CASES, **EMPTY}[case]
    inputs = tensors(**sizes)
    assert_near(
        values_and_gradients(concat_attention, inputs, **options),
        values_and_gradients(by_loops, inputs, **options),
        1e-10,
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_the_split_agrees_with_the_reference(case: str, dtype: torch.dtype) -> None:
    sizes, options = CASES[case]
    reference = values_and_gradients(concat_attention, tensors(**sizes), **options)
    result = values_and_gradients(split_attention, tensors(**sizes, dtype=dtype), **options)
    assert all(bool(t.isfinite().all()) and t.dtype == dtype for t in result)
    assert_near(result, reference, TOLERANCE[dtype])


@pytest.mark.parametrize("threads", [1, 2])
def test_the_split_agrees_at_sizes_beyond_one_block_of_the_operator(threads: int) -> None:
    sizes = {"rows": 6, "heads": 1, "queries": 150, "tokens": 150, "prompt": 70, "dim": 16}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)  # more threads than heads: the prompt partition is cut into groups of rows
    try:
        for options in ({}, {"causal": True}, {"mask": noise(6, 1, 1, 150) > 0}):
            reference = values_and_gradients(concat_attention, tensors(**sizes), **options)
            assert_near(values_and_gradients(split_attention, tensors(**sizes), **options), reference, 1e-10)
            single = values_and_gradients(split_attention, tensors(**sizes, dtype=torch.float32), **options)
            assert_near(single, reference, 1e-5)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("rows", "threads", "groups"), [(6, 1, 1), (6, 2, 2), (6, 4, 6), (5, 2, 5), (1, 4, 1)])
def test_groups_divide_the_rows_and_keep_the_threads_busy(
    rows: int, threads: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    q, _, _, prompt_k, _ = tensors(rows=rows, heads=1)
    assert split_module._groups(q, prompt_k) == groups


@pytest.mark.parametrize("case", [name for name, (sizes, _) in CASES.items() if sizes.get("dim") != 7])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_agrees_with_the_reference_forward(case: str) -> None:
    sizes, options = CASES[case]
    inputs = [t.detach().float() for t in tensors(**sizes)]
    reference = concat_attention(*(t.double() for t in inputs), **options)
    assert (flex_prompt_attention(*inputs, **options) - reference).abs().max() <= 1e-5 * reference.abs().max()


@pytest.mark.parametrize("case", [*CASES, *EMPTY])
def test_the_dispatcher_agrees_with_the_reference(case: str) -> None:
    sizes, options = {**CASES, **EMPTY}[case]
    inputs = tensors(**sizes)
    reference = values_and_gradients(concat_attention, inputs, **options)
    assert_near(values_and_gradients(prompt_attention, inputs, **options), reference, 1e-10)


@pytest.mark.parametrize("kernel", [concat_attention, split_attention])
def test_strided_inputs_and_gradients(kernel: Callable[..., Tensor]) -> None:
    """Views of a fused projection, every second column, an expanded prompt, and the stride-0 gradient of a sum."""
    fused = torch.randn(ROWS, 6, 3, HEADS, 2 * DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    q, k, v = (t[..., ::2].requires_grad_() for t in fused.permute(2, 0, 3, 1, 4).unbind(0))
    near = torch.randn(1, HEADS, 5, 2, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    near = near.expand(ROWS, -1, -1, -1, -1)
    inputs = [q, k, v, near[..., 0, :].requires_grad_(), near[..., 1, :].requires_grad_()]
    plain = [t.detach().contiguous().requires_grad_() for t in inputs]
    result = torch.autograd.grad(kernel(*inputs).sum(), inputs)
    reference = torch.autograd.grad(concat_attention(*plain).sum(), plain)
    assert_near([torch.zeros(0), *result], [torch.zeros(0), *reference], 1e-10)


@pytest.mark.parametrize("kernel", [prompt_attention, concat_attention, split_attention])
def test_the_callers_tensors_stay_as_they_were(kernel: Callable[..., Tensor]) -> None:
    inputs, mask = tensors(prompt_rows=3), additive(padding())
    index = torch.tensor([2, 0, 2, 1])
    watched = [*inputs, mask, index]
    copies, versions = [t.detach().clone() for t in watched], [t._version for t in watched]
    kernel(*inputs, index=index, mask=mask, causal=True).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(watched, copies, strict=True))
    assert [t._version for t in watched] == versions


@pytest.mark.parametrize("wanted", [(0,), (1, 2), (3, 4), (4,), (0, 3)], ids=str)
def test_gradients_of_a_part_of_the_inputs(wanted: tuple[int, ...]) -> None:
    """Frozen inputs get none, and leaving their partition out changes nothing for the others."""
    complete = values_and_gradients(concat_attention, tensors())[1:]
    inputs = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(tensors())]
    out = split_attention(*inputs)
    seed = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    out.backward(seed)
    for i, t in enumerate(inputs):
        if i in wanted:
            assert t.grad is not None
            assert (t.grad - complete[i]).abs().max() <= 1e-10 * complete[i].abs().max()
        else:
            assert t.grad is None


def test_a_learned_bias_gets_its_gradient() -> None:
    """The split kernel has none for the mask, so it must not be chosen."""
    inputs, bias = tensors(), noise(1, HEADS, 6, 6).requires_grad_()
    assert split_module.backend_for(check(*inputs, None, bias, False, None)) is None
    prompt_attention(*inputs, mask=bias).sum().backward()
    assert bias.grad is not None
    reference = torch.autograd.grad(by_loops(*inputs, mask=bias).sum(), bias)[0]
    assert (bias.grad - reference).abs().max() <= 1e-10
    with pytest.raises(ValueError, match="no split kernel"):
        split_attention(*inputs, mask=bias)


# ---- second derivatives and the switch ------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"mask": padding((2, 0), 2)}], ids=str)
def test_second_derivatives_through_reference_kernels(options: dict[str, Any]) -> None:
    inputs = tensors(rows=2, heads=2, queries=2, tokens=2, prompt=2, dim=2)
    with reference_kernels():
        assert torch.autograd.gradcheck(lambda *t: prompt_attention(*t, **options), inputs)
        assert torch.autograd.gradgradcheck(lambda *t: prompt_attention(*t, **options), inputs)


@pytest.mark.parametrize("position", range(5))
def test_the_split_never_gives_a_second_derivative(position: int) -> None:
    inputs = tensors()
    first = torch.autograd.grad((split_attention(*inputs) ** 2).sum(), inputs[position], create_graph=True)[0]
    assert torch.allclose(first, torch.autograd.grad((concat_attention(*inputs) ** 2).sum(), inputs[position])[0])
    with pytest.raises(RuntimeError, match="reference_kernels"):
        torch.autograd.grad(first.square().sum(), inputs[position])


def paying() -> list[Tensor]:
    """Inputs for which the dispatcher takes the split."""
    return tensors(rows=16, heads=8, queries=10, tokens=10, prompt=200, dim=64, dtype=torch.float32)


def test_the_dispatcher_takes_the_split_where_it_pays_and_not_under_reference_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    monkeypatch.setattr(split_module, "split", lambda x: calls.append("split") or x.q)
    prompt_attention(*paying())
    assert calls == ["split"]
    with reference_kernels():
        reference = prompt_attention(*paying())
    assert calls == ["split"]
    assert (reference - concat_attention(*paying())).abs().max() < 1e-5
    prompt_attention(*tensors(), causal=True)  # too small
    assert calls == ["split"]


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 1},
        {"prompt": 10},
        {"prompt_rows": 16},
        {"kv_heads": 2},
        {"device": "meta"},
    ],
    ids=str,
)
def test_the_dispatcher_concatenates_elsewhere(change: dict[str, Any]) -> None:
    sizes = {"rows": 16, "heads": 8, "queries": 10, "tokens": 10, "prompt": 200, "dim": 64, "dtype": torch.float32}
    assert split_pays(check(*tensors(**sizes), None, None, False, None))
    assert not split_pays(check(*tensors(**(sizes | change)), None, None, False, None))


def test_reference_kernels_nests_and_restores_after_an_error() -> None:
    def math_only() -> bool:
        return not torch.backends.cuda.flash_sdp_enabled()

    assert fast_paths_enabled()
    assert not math_only()
    with reference_kernels():
        with reference_kernels():
            assert not fast_paths_enabled()
        assert not fast_paths_enabled()
        assert math_only()
    with pytest.raises(KeyError), reference_kernels():
        raise KeyError
    assert fast_paths_enabled()
    assert not math_only()


def test_reference_kernels_reaches_the_backbones_own_attention() -> None:
    """SDPA itself can then be differentiated twice; without, flash attention refuses."""
    q, k, v, *_ = tensors(rows=1, heads=1, queries=2, tokens=2, dim=2)
    first = torch.autograd.grad(scaled_dot_product_attention(q, k, v).square().sum(), q, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="not implemented"):
        torch.autograd.grad(first.sum(), k)
    with reference_kernels():
        assert torch.autograd.gradgradcheck(scaled_dot_product_attention, (q, k, v))


# ---- transforms -----------------------------------------------------------------------------------------------------


class Block(torch.nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, prompt_k: Tensor, prompt_v: Tensor) -> Tensor:
        return prompt_attention(q, k, v, prompt_k, prompt_v)


def test_export_traces_plain_operators() -> None:
    inputs = tuple(t.detach() for t in paying())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations while tracing
        program = torch.export.export(Block(), inputs)
    assert "_Split" not in program.graph_module.code
    assert (program.module()(*inputs) - concat_attention(*inputs)).abs().max() <= 1e-5


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch has no batching rule for the CPU operator
def test_function_transforms_get_the_reference() -> None:
    inputs = paying()
    plain = [t.detach() for t in inputs]
    gradient = torch.func.grad(lambda p: prompt_attention(*plain[:3], p, plain[4]).square().sum())(plain[3])
    want = torch.autograd.grad(concat_attention(*inputs).square().sum(), inputs[3])[0]
    assert (gradient - want).abs().max() <= 1e-5 * want.abs().max()
    banks = torch.stack([plain[3], 2 * plain[3]])
    both = torch.func.vmap(lambda p: prompt_attention(*plain[:3], p, plain[4]))(banks)
    assert (both[1] - concat_attention(*plain[:3], banks[1], plain[4])).abs().max() <= 1e-5


@pytest.mark.parametrize("kernel", [concat_attention, split_attention])
def test_autocast_casts_as_it_does_for_sdpa(kernel: Callable[..., Tensor]) -> None:
    inputs = tensors(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = values_and_gradients(
            kernel, [*(t.detach().bfloat16().requires_grad_() for t in inputs[:3]), *inputs[3:]]
        )
    assert result[0].dtype == torch.bfloat16
    assert result[4].dtype == torch.float32  # the prompt's fp32 master gets an fp32 gradient
    assert_near(result, values_and_gradients(concat_attention, tensors()), TOLERANCE[torch.bfloat16])


# ---- floating point operations --------------------------------------------------------------------------------------

SIZES = {"rows": 5, "heads": 4, "queries": 12, "tokens": 12, "prompt": 7, "dim": 8, "dtype": torch.float32}
FORWARD = 4 * 5 * 4 * 12 * (7 + 12) * 8  # 4 B H N (m + N) D


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"mask": torch.ones(12, dtype=torch.bool)}], ids=str)
@pytest.mark.parametrize(
    ("kernel", "device"),
    [
        *itertools.product((prompt_attention, concat_attention, "reference"), ("cpu", "meta")),
        (split_attention, "cpu"),  # the split never runs on meta tensors
    ],
)
def test_counted_operations_do_not_depend_on_the_path(kernel: Any, device: str, options: dict[str, Any]) -> None:
    inputs = tensors(**SIZES, device=device)
    options = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in options.items()}
    with flop_counter() as forward:
        if kernel == "reference":
            with reference_kernels():
                out = prompt_attention(*inputs, **options)
        else:
            out = kernel(*inputs, **options)
    with flop_counter() as backward:
        out.sum().backward()
    assert forward.get_total_flops() == FORWARD
    assert backward.get_total_flops() == 2 * FORWARD


def test_the_counter_sees_sdpa_on_cpu_where_torchs_own_sees_nothing() -> None:
    q, k, v, *_ = tensors(**SIZES)
    with flop_counter() as ours:
        scaled_dot_product_attention(q, k, v).sum().backward()
    with FlopCounterMode(display=False) as stock:
        scaled_dot_product_attention(q, k, v)
    assert ours.get_total_flops() == 3 * 4 * 5 * 4 * 12 * 12 * 8
    assert stock.get_total_flops() == 0  # once this fails, FLASH_FLOP_FORMULAS may shrink


# ---- errors ---------------------------------------------------------------------------------------------------------


def bad(position: int, shape: tuple[int, ...]) -> Callable[[list[Tensor]], None]:
    def change(inputs: list[Tensor]) -> None:
        inputs[position] = torch.zeros(shape, dtype=torch.float64)

    return change


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (bad(0, (4, 6, 8)), {}, r"q must have 4 axes.*\(4, 6, 8\)"),
        (bad(1, (3, 4, 6, 8)), {}, r"k and v must both be \(4, kv_heads, tokens, 8\).*\(3, 4, 6, 8\)"),
        (bad(2, (4, 4, 5, 8)), {}, r"k and v must both be.*\(4, 4, 5, 8\)"),
        (bad(0, (4, 6, 6, 8)), {}, "4 heads, which does not divide the 6 heads"),
        (bad(3, (1, 2, 3, 8)), {}, r"prompt_k and prompt_v must both be.*\(1, 2, 3, 8\)"),
        (bad(4, (1, 4, 2, 8)), {}, r"prompt_k and prompt_v must both be.*\(1, 4, 2, 8\)"),
        (lambda x: [bad(i, (2, 4, 3, 8))(x) for i in (3, 4)], {}, "2 rows for a batch of 4"),
        (lambda x: x.__setitem__(3, x[3].float()), {}, "one dtype.*float32"),
        (lambda x: None, {"index": torch.tensor([0, 0])}, r"index must be int64 of shape \(4,\).*\(2,\)"),
        (lambda x: None, {"index": torch.zeros(4)}, "index must be int64.*float32"),
        (lambda x: None, {"index": torch.tensor([0, 0, 1, 0])}, "index holds 1, the rows are 0 to 0"),
        (lambda x: None, {"index": torch.tensor([0, -1, 0, 0])}, "index holds -1"),
        (lambda x: None, {"mask": torch.ones(5, dtype=torch.bool)}, r"mask \(5,\) does not broadcast.*\(4, 4, 6, 6\)"),
        (lambda x: None, {"mask": torch.ones(1, 4, 4, 6, 6)}, "does not broadcast"),
        (lambda x: None, {"mask": torch.ones(6, dtype=torch.int64)}, "bool .* or additive float, got torch.int64"),
    ],
)
@pytest.mark.parametrize("kernel", [prompt_attention, concat_attention, split_attention, flex_prompt_attention])
def test_arguments_that_do_not_fit(
    kernel: Callable[..., Tensor], change: Callable[[list[Tensor]], object], options: dict[str, Any], message: str
) -> None:
    inputs = tensors()
    change(inputs)
    with pytest.raises(ValueError, match=message):
        kernel(*inputs, **options)


@pytest.mark.parametrize("case", EMPTY)
def test_the_split_refuses_empty_partitions(case: str) -> None:
    """The CPU operator would end the process there."""
    sizes, options = EMPTY[case]
    with pytest.raises(ValueError, match="no split kernel"):
        split_attention(*tensors(**sizes), **options)


# ---- CUDA -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["flash", "efficient"])
@pytest.mark.parametrize("prompt_rows", [1, 6])
def test_the_calls_of_the_cuda_operators_fit_their_schemas(backend: str, prompt_rows: int) -> None:
    """On meta tensors: argument order and shapes, not values."""
    sizes = {"rows": 6, "queries": 33, "tokens": 33, "prompt": 5, "prompt_rows": prompt_rows, "device": "meta"}
    inputs = tensors(**sizes, dtype=torch.bfloat16)
    mask = None if backend == "flash" else torch.zeros(6, 1, 1, 33, dtype=torch.bfloat16, device="meta")
    out = split_module._Split.apply(*inputs, mask, False, 0.3, backend)
    gradients = torch.autograd.grad(out.sum(), inputs)
    assert out.shape == inputs[0].shape
    assert [g.shape for g in gradients] == [t.shape for t in inputs]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kernel", [split_attention, flex_prompt_attention, prompt_attention])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_cuda_agrees_with_the_reference(case: str, dtype: torch.dtype, kernel: Callable[..., Tensor]) -> None:
    sizes, options = CASES[case]
    sizes = sizes | {"dim": 32}
    reference = values_and_gradients(concat_attention, tensors(**sizes), **options)
    moved = {name: value.cuda() if isinstance(value, Tensor) else value for name, value in options.items()}
    result = values_and_gradients(kernel, tensors(**sizes, dtype=dtype, device="cuda"), **moved)
    assert_near([t.cpu() for t in result], reference, {torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype])
