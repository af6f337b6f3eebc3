"""A real pretrained model of 260 thousand parameters through the normal local-folder path: its own reference outputs, and prompts on it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pt_language
import pytest
import torch
from pt_language.backbones import load_backbone
from tokenizers import Tokenizer, decoders, models, normalizers

pytestmark = pytest.mark.realdata
DATA = Path(os.environ.get("PT_REALDATA", "."))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's folder with its pieces as a tokenizer.json."""
    source, out = DATA / "lm_stories260k", tmp_path_factory.mktemp("stories") / "model"
    out.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(source / name, out / name)
    content = json.loads((source / "tokenizer_pieces.json").read_text())
    pieces = [piece.encode("latin-1").decode("utf-8", "replace") for piece in content["pieces"]]
    pieces[1:3] = ["<s>", "</s>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    ranked = sorted((n for n in range(259, len(pieces)) if len(pieces[n]) > 1), key=lambda n: -content["scores"][n])
    merges = [
        (pieces[n][:cut], pieces[n][cut:])
        for n in ranked
        for cut in range(1, len(pieces[n]))
        if pieces[n][:cut] in vocabulary and pieces[n][cut:] in vocabulary
    ]
    inner = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=False))
    inner.normalizer = normalizers.Prepend(" ")
    inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    inner.add_special_tokens(["<s>", "</s>"])
    inner.save(str(out / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings))
    return out


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / "lm_stories260k" / "reference.json").read_text())
    return found


def test_its_reference_outputs(folder, reference):
    backbone: Any = load_backbone(f"local:{folder}")
    ids = [1, *backbone.tokenizer(reference["prompt"], add_special_tokens=False)["input_ids"]]
    assert ids == reference["token_ids"]
    inputs = {"ids": torch.tensor([ids]), "mask": torch.ones(1, len(ids), dtype=torch.long)}
    with torch.no_grad():
        logits = backbone.prefill(inputs).extra["logits"][0, -1]
        torch.testing.assert_close(
            logits[:8], torch.tensor(reference["last_position_logits_first8"]), rtol=0, atol=1e-4
        )
        tokens = backbone.generate(inputs, 60, options={"do_sample": False, "eos_token_id": None})
    assert tokens[0].tolist() == reference["greedy_next_60"]


def test_prompt_tuning_on_it_beats_the_untuned_model(folder, tmp_path):
    """Its context of 512 holds the prompt and one sentence; by the test part's negative log-likelihood of the label words."""
    train, test = (DATA / "sentence_classification" / f"sst2_{part}.csv" for part in ("train", "test"))
    shared: dict[str, Any] = {
        "data": (f"train={train}", f"test={test}"),
        "backbone": f"local:{folder}",
        "label_words": ("0=sad", "1=happy"),
        "max_text_tokens": 60,
        "limit": 96,
        "quiet": True,
    }
    plain = pt_language.fit("icl", examples=0, out=tmp_path / "plain", **shared)
    tuned = pt_language.fit(
        "prompt_tuning",
        prompt_length=10,
        lr=0.1,
        steps=20,
        batch_size=16,
        eval_every=100,
        out=tmp_path / "tuned",
        **shared,
    )
    # The story model knows no sentiment: its accuracy stays near chance and says nothing; its probabilities are what tuning mends.
    assert tuned.metrics["nll"] < plain.metrics["nll"] - 0.02
