#!/usr/bin/env bash
# transformers 5.23.0, torch 2.14.1: greedy `generate` of a RoBERTa decoder is not what its own forward passes say, one after the other.
#
# RoBERTa keeps the rows up to its padding id of the position table for padding, so `forward` gives a text the positions padding_idx + 1,
# padding_idx + 2, ... `generate` prepares position_ids for every model alike, from 0, and hands them over; `forward` takes them as they are.
# The text is then read at positions that no training ever saw (0 and 1 among them), from the first token on, with and without a cache. There is
# no error and no warning, and the written text is plausible. Heirs of RoBERTa that can be decoders (XLM-R, CamemBERT, data2vec) do the same.
#
# What to do: pass position_ids of one's own to `generate`, or write the loop over `forward`.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
command -v uv >/dev/null || python3 -m pip install --quiet uv
uv venv --quiet --python 3.11 "$work/venv"
uv pip install --quiet --python "$work/venv/bin/python" torch==2.14.1 transformers==5.23.0
"$work/venv/bin/python" - <<'PY'
import torch
import transformers
from transformers import RobertaConfig, RobertaForCausalLM

assert transformers.__version__ == "5.23.0", transformers.__version__
torch.manual_seed(0)
config = RobertaConfig(
    vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, max_position_embeddings=64,
    is_decoder=True, bos_token_id=0, pad_token_id=1, eos_token_id=2,
)
model = RobertaForCausalLM(config).eval()
with torch.no_grad():
    for parameter in model.parameters():
        parameter.mul_(3)  # random networks with small weights cannot tell positions
    ids = torch.randint(3, 60, (1, 6))
    given = dict(max_new_tokens=8, do_sample=False, eos_token_id=None)
    written = model.generate(ids, **given)[0, 6:].tolist()
    uncached = model.generate(ids, use_cache=False, **given)[0, 6:].tolist()
    own = ids
    for _ in range(8):
        own = torch.cat([own, model(own).logits[:, -1:].argmax(-1)], 1)
    own = own[0, 6:].tolist()
    shifted = model(ids, position_ids=torch.arange(6)[None]).logits[:, -1].argmax(-1).tolist()
print("transformers", transformers.__version__)
print("generate:                ", written)
print("generate without cache:  ", uncached)
print("argmax of forward passes:", own)
print("first token of a forward pass at positions 0, 1, ...:", shifted)
assert written == uncached, "behaviour changed: the cache matters now"
assert written != own, "behaviour changed: generate agrees with forward now"
assert written[:1] == shifted, "behaviour changed: generate's positions are others now"
PY
echo "seen as described"
