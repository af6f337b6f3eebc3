#!/usr/bin/env bash
# torch 2.9.1 (CPU): activation checkpointing inside `torch.func.functional_call` gives wrong gradients without a word.
#
# `functional_call(model, tensors, x)` runs the model with other tensors in place of its own, and puts its own back when it returns. A
# segment under `torch.utils.checkpoint` runs once more in the backward pass, when the model's own tensors are back. The second run therefore
# saves other values than the first one did. Shapes and dtypes agree, so the metadata check of the non-reentrant form is content; the output
# and the loss are right, the gradients are not: below, those of the layer in front of the second one are those for the model's own weights.
# Meta-learning (an inner step's weights) and EMA teachers that need gradient meet this with any model that checkpoints by itself.
#
# What to do: let the checkpointed function take the tensors as arguments and call `functional_call` inside it.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
command -v uv >/dev/null || python3 -m pip install --quiet uv
uv venv --quiet --python 3.11 "$work/venv"
uv pip install --quiet --python "$work/venv/bin/python" torch==2.9.1 numpy==2.3.5
"$work/venv/bin/python" - <<'PY'
import torch
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

assert torch.__version__.startswith("2.9.1"), torch.__version__


class Net(nn.Module):
    def __init__(self, saves_memory):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.saves_memory = nn.Linear(3, 3), nn.Linear(3, 3), saves_memory

    def forward(self, x):
        hidden = self.first(x)
        if self.saves_memory:
            return checkpoint(lambda h: self.second(h).tanh(), hidden, use_reentrant=False)
        return self.second(hidden).tanh()


def result(saves_memory, as_arguments=False):
    net = Net(saves_memory and not as_arguments)
    torch.manual_seed(1)
    other = {name: torch.randn_like(tensor).requires_grad_() for name, tensor in net.named_parameters()}
    x = torch.randn(4, 3)
    if as_arguments:
        loss = checkpoint(
            lambda x, *given: functional_call(net, dict(zip(other, given)), (x,)).square().sum(),
            x, *other.values(), use_reentrant=False,
        )
    else:
        loss = functional_call(net, other, (x,)).square().sum()
    return loss.detach(), torch.autograd.grad(loss, list(other.values()))


want_loss, want = result(saves_memory=False)
loss, got = result(saves_memory=True)
error = {n: float((a - b).abs().max() / b.abs().max()) for n, a, b in zip(("first.w", "first.b", "second.w", "second.b"), got, want)}
print("torch", torch.__version__)
print("losses equal:", bool(torch.equal(loss, want_loss)))
print("relative error of the gradients:", {name: round(value, 3) for name, value in error.items()})
_, fixed = result(saves_memory=True, as_arguments=True)
right = all(torch.allclose(a, b) for a, b in zip(fixed, want))
print("tensors as arguments of the checkpointed function: gradients right:", right)
assert torch.equal(loss, want_loss), "behaviour changed: the outputs differ now"
assert max(error.values()) > 0.1, "behaviour changed: gradients are right now"
assert right
PY
echo "seen as described"
