#!/usr/bin/env bash
# transformers 5.23.0, torch 2.14.1: T5Config(tie_word_embeddings=False) makes a model whose output head is its embedding table.
#
# T5 reads the option as "T5 1.1: do not scale the decoder's output" and then sets it to True, in the constructor and in from_dict alike: what was
# asked for reads back, and is saved, as the opposite. A model made from it has one matrix for both, a step on one moves the other, and its count
# of parameters lacks the head (of T5 1.1 small: a fifth of all). Nothing is said. Files of T5 1.1 and mT5, which have a head of their own, still
# load with it: from_pretrained lets the weights decide, from_config cannot (and the advice that loading prints, to set the option to False, is
# what is not followed).
#
# What to do: after making a model from a configuration, give it a head: model.lm_head.weight = Parameter(model.lm_head.weight.clone()).
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
command -v uv >/dev/null || python3 -m pip install --quiet uv
uv venv --quiet --python 3.11 "$work/venv"
uv pip install --quiet --python "$work/venv/bin/python" torch==2.14.1 transformers==5.23.0
"$work/venv/bin/python" - <<'PY'
import tempfile

import torch
import transformers
from transformers import BertConfig, LlamaConfig, T5Config, T5ForConditionalGeneration

assert transformers.__version__ == "5.23.0", transformers.__version__
sizes = dict(vocab_size=60, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0)
config = T5Config(tie_word_embeddings=False, **sizes)
model = T5ForConditionalGeneration(config)
one = model.lm_head.weight is model.shared.weight
print("transformers", transformers.__version__)
print("asked for False, reads", config.tie_word_embeddings, "; from_dict:", T5Config.from_dict({"tie_word_embeddings": False}).tie_word_embeddings)
print("others:", BertConfig(tie_word_embeddings=False).tie_word_embeddings, LlamaConfig(tie_word_embeddings=False).tie_word_embeddings)
print("one matrix for words and head:", one)
assert config.tie_word_embeddings is True and one, "behaviour changed: the option is followed now"
assert LlamaConfig(tie_word_embeddings=False).tie_word_embeddings is False

with torch.no_grad():
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone() + 1)
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    again = T5ForConditionalGeneration.from_pretrained(folder)
kept = torch.equal(again.lm_head.weight, model.lm_head.weight) and not torch.equal(again.lm_head.weight, again.shared.weight)
print("a head of its own survives saving and loading:", kept)
assert kept, "behaviour changed: weights do not decide any more"
PY
echo "seen as described"
