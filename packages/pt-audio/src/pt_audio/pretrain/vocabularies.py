"""Tokenizers of the built-in text models."""

from __future__ import annotations

from typing import Any

BOS, EOS, PAD = "<s>", "</s>", "<pad>"


def lm_tokenizer(texts: list[str], size: int) -> Any:
    """Byte-level BPE, lower-cased, with <s>, </s> and <pad>."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[PAD, BOS, EOS], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=BOS, eos_token=EOS, pad_token=PAD)


def bert_tokenizer(texts: list[str], size: int) -> Any:
    """WordPiece, lower-cased, in BERT's form."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizer

    inner = BertWordPieceTokenizer(lowercase=True)
    letters = "".join(chr(code) for code in range(33, 127))
    inner.train_from_iterator(
        texts, vocab_size=size, min_frequency=1, initial_alphabet=list(letters), show_progress=False
    )
    return BertTokenizer(tokenizer_object=inner._tokenizer)
