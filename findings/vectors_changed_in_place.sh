#!/usr/bin/env bash
# transformers 5.23.0, torch 2.14.1: CTRLLMHeadModel changes the caller's `inputs_embeds`.
#
# The model scales what it gets by the square root of its width with an in-place product. From token ids that is a tensor of its own; handed in as
# `inputs_embeds` it is the caller's. A soft prompt in front of embedded text is then another one at the second call, and a frozen table of
# vectors that one slices is no longer frozen. Nothing is said, as long as the tensor asks for no gradient.
#
# What to do: hand over a copy (`embeds.clone()`).
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
command -v uv >/dev/null || python3 -m pip install --quiet uv
uv venv --quiet --python 3.11 "$work/venv"
uv pip install --quiet --python "$work/venv/bin/python" torch==2.14.1 transformers==5.23.0
"$work/venv/bin/python" - <<'PY'
import torch
import transformers
from transformers import CTRLConfig, CTRLLMHeadModel

assert transformers.__version__ == "5.23.0", transformers.__version__
torch.manual_seed(0)
model = CTRLLMHeadModel(CTRLConfig(vocab_size=60, n_embd=32, dff=48, n_layer=2, n_head=4, n_positions=64)).eval()
embeds = torch.randn(1, 5, 32)
before = embeds.clone()
with torch.no_grad():
    first = model(inputs_embeds=embeds).logits
    second = model(inputs_embeds=embeds).logits
scale = float((embeds / before).median())
print("transformers", transformers.__version__)
print("the caller's tensor is as it was:", torch.equal(embeds, before))
print("it was multiplied, over two calls, by", round(scale, 3), "=", 32, "** 0.5 squared")
print("largest difference of the same call made twice:", round(float((first - second).abs().max()), 4))
assert not torch.equal(embeds, before), "behaviour changed: the caller's tensor stays now"
assert abs(scale - 32) < 1e-3, "behaviour changed: another factor"
assert not torch.allclose(first, second), "behaviour changed: both calls agree"
PY
echo "seen as described"
