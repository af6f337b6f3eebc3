"""Audio prompts beside the visual prompts of a frozen vision-language model, through the same interface."""

from __future__ import annotations

import pytest
import torch
import transformers
from pt_audio.adapters.language_model import LanguageModel
from pt_audio.methods.acoustic_apt import AcousticAPT, AcousticAPTConfig
from pt_core.errors import UserError
from pt_core.randomness import seeded

from tests.audio import tiny
from tests.audio.tiny import close

PATCHES = 4


def vlm() -> LanguageModel:
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(
            vocab_size=tiny.LM_VOCABULARY, hidden_size=tiny.D, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=4, bos_token_id=0, eos_token_id=1, max_position_embeddings=256,
        ),
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16,
            patch_size=8, projection_dim=16,
        ),
        image_token_id=5, vision_feature_select_strategy="default", vision_feature_layer=-1,
    )  # fmt: skip
    with seeded(0, "vlm"):
        model = transformers.LlavaForConditionalGeneration(config)
        return LanguageModel(tiny.louder(model), tiny.lm_tokenizer(), "tiny:llava")


def method(on: LanguageModel) -> AcousticAPT:
    with seeded(1, "method"):
        made = AcousticAPT(AcousticAPTConfig(queries=3, dropout=0.0), {**tiny.backbones(), "lm": on}, tiny.task())
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return made.eval()


def test_audio_and_visual_prompts_stand_side_by_side() -> None:
    on = vlm()
    made = method(on)
    batch = tiny.batch(tiny.RECORDS[:2])
    pictures = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    visual = on.see(pictures)
    assert visual.shape == (2, PATCHES, tiny.D)
    have = made(batch, extra=visual)
    for number, record in enumerate(tiny.RECORDS[:2]):
        block = made.blocks(tiny.batch([record]).inputs)
        line = torch.cat(
            [
                on.embed(torch.tensor([on.begin])),
                *block.values(),
                visual[number],
                on.embed(torch.tensor([*on.tokens(record.texts[0]), *on.tokens(str(record.answer))])),
            ]
        )
        logits = on.module(inputs_embeds=line[None]).logits[0]
        count = len(on.tokens(str(record.answer))) + 1
        close(have[number, :count], logits[-count:], 3e-5)
    other = made(batch, extra=on.see(pictures + 1))
    assert (other - have).abs().max() > 1e-3
    made.task.loss(have, batch)[0].backward()
    assert made.aligner.queries.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in on.module.parameters())
    assert made.generate(batch, 3, {"num_beams": 1, "do_sample": False}, visual).shape[0] == 2


def test_the_audio_prompts_work_without_a_picture() -> None:
    made = method(vlm())
    answers = made.answers.answer(made, tiny.batch(tiny.RECORDS[:3]))
    assert answers["tokens"].shape == (3, 5)


def test_a_language_model_reads_no_pictures() -> None:
    with pytest.raises(UserError, match="reads no pictures"):
        tiny.lm().see(torch.zeros(1, 3, 16, 16))
