"""Text encoders of transformers under open_clip's wrapper: every pooling, padding masked, context at the input."""

from __future__ import annotations

import pytest
import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CustomTextCLIP
from open_clip.tokenizer import HFTokenizer
from pt_core.backbone import Insert
from pt_core.errors import UserError
from pt_core.kernels import reference_kernels
from pt_vision.adapters.clip.load import adapt_pair
from pt_vision.adapters.clip.rows import Context
from pt_vision.networks.clip.models import Pair, image_settings
from transformers import BertConfig, BertTokenizer, RobertaConfig

from tests.vision.clip.networks import TEXT, VISION

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghijklmnopqrstuvwxyz",
    *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
]
SIZES = {
    "hidden_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}
NAMES = ["cat", "old oak"]


def wrapped(tmp_path, pooler, config=BertConfig):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join([*WORDS, *["photo", "of", "cat", "old", "oak"]]))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    module = CustomTextCLIP(24, VISION, TEXT)
    inner = config(vocab_size=len(WORDS) + 5, pad_token_id=0, **SIZES)
    module.text = HFTextEncoder("", 24, config=inner, pooler_type=pooler, proj_type="mlp")
    module.context_length = 24
    with torch.no_grad():
        module.text.transformer.get_input_embeddings().weight.mul_(30)
    tokenizer = HFTokenizer(str(folder), context_length=24)
    return Pair(module.eval(), image_settings(module), tokenizer)


@pytest.mark.parametrize("config", [BertConfig, RobertaConfig])
@pytest.mark.parametrize("pooler", ["mean_pooler", "cls_pooler", "cls_last_hidden_state_pooler"])
def test_encoders_equal_the_library(tmp_path, pooler, config):
    network = wrapped(tmp_path, pooler, config)
    dual = adapt_pair(network, "tiny")
    assert dual.text.needed(dual.text.framing.rows([[5], [6, 7]])) == 4  # cut behind the longest text: pads are masked
    with torch.no_grad():
        want = network.module.encode_text(network.tokenizer([f"photo of {name}" for name in NAMES]))
        torch.testing.assert_close(dual.text.encode_words(NAMES, ["photo of {}"]), want, rtol=1e-5, atol=1e-5)
        context = dual.text.word_vectors("photo of")
        torch.testing.assert_close(
            dual.text.encode_words(NAMES, ["{}"], {"input": Context(context)}), want, rtol=1e-5, atol=1e-5
        )
        front = network.module.encode_text(network.tokenizer([f"{name} photo of" for name in NAMES]))
        given = {"input": Context(context, place="front")}
        torch.testing.assert_close(dual.text.encode_words(NAMES, ["{}"], given), front, rtol=1e-5, atol=1e-5)
        with reference_kernels():
            torch.testing.assert_close(dual.text.encode_words(NAMES, ["{}"], given), front, rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match=r"no site 'tokens\[1\]'"):
        dual.text.encode_words(NAMES, ["{}"], {"input": Context(context), "tokens[1]": Insert(context)})


def test_a_tokenizer_that_pads_otherwise_is_refused(tmp_path):
    network = wrapped(tmp_path, "mean_pooler")
    network.module.text.config.pad_token_id = 1
    with pytest.raises(UserError, match="masks token 1, but its tokenizer pads with 0"):
        adapt_pair(network, "tiny")
