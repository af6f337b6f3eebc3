"""The Q-former: counts of the paper, BERT's own outputs on text, who sees what."""

from __future__ import annotations

import pytest
import torch
import transformers
from pt_audio.qformer.aligner import Aligner
from pt_audio.qformer.layers import QFormerSizes
from pt_audio.qformer.network import QFormer
from pt_core.randomness import seeded

from tests.audio import tiny
from tests.audio.tiny import close

MINI = QFormerSizes(vocabulary=30_523, dim=256, depth=4, heads=4, inner=1024, audio=768)
SMALL = QFormerSizes(vocabulary=40, dim=16, depth=4, heads=2, inner=32, audio=12)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def small(sizes: QFormerSizes = SMALL, seed: int = 0) -> QFormer:
    with seeded(seed, "qformer"):
        return tiny.louder(QFormer(sizes)).eval()


def inputs(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    mask = torch.ones(batch, 6, dtype=torch.long)
    mask[-1, 4:] = 0
    return (
        torch.randn(1, 3, 16, generator=g).expand(batch, -1, -1),
        torch.randint(0, 40, (batch, 6), generator=g),
        mask,
        torch.randn(batch, 5, 12, generator=g),
    )


def test_published_counts() -> None:
    with torch.device("meta"):
        aligner = Aligner(MINI, 32, 4096)
    parts = {name: count(module) for name, module in aligner.named_children()}
    assert parts == {"qformer": 14_260_480, "ln_audio": 1_536, "llm_proj": 1_052_672}
    assert aligner.queries.numel() == 8_192
    assert aligner.indicator.numel() == 4_096
    assert count(aligner) == 15_326_976
    former = aligner.qformer
    assert count(former.word) + count(former.position) + count(former.norm) == 7_945_472
    cross = sum(count(layer.cross) for layer in former.layers if layer.cross is not None)
    assert cross == 1_051_648
    assert sum(count(layer) for layer in former.layers) - cross == 5_263_360


@pytest.mark.parametrize("sizes", [MINI, SMALL, QFormerSizes(0, 16, 3, 2, 32, 8, cross_every=1)])
def test_the_formula_counts_what_is_there(sizes: QFormerSizes) -> None:
    with torch.device("meta"):
        assert count(QFormer(sizes)) == sizes.parameters()


def test_text_alone_is_the_bert_it_was_loaded_from() -> None:
    config = transformers.BertConfig(
        vocab_size=39, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32
    )
    bert = tiny.louder(transformers.BertModel(config, add_pooling_layer=False)).eval()
    former = small()
    former.load_bert(bert)
    _, ids, mask, _ = inputs()
    ids = ids.clamp(max=38)
    want = bert(ids, attention_mask=mask).last_hidden_state[mask.bool()]
    close(former(None, ids, mask).text[mask.bool()], want)
    for layer in former.layers:  # the queries' networks start as copies of the text's
        assert layer.text is not None
        assert torch.equal(layer.queries.fc1.weight, layer.text.fc1.weight)


def test_only_every_second_layer_reads_the_audio() -> None:
    assert [layer.cross is not None for layer in small().layers] == [True, False, True, False]
    names = [name for name, _ in small().named_parameters() if ".cross." in name]
    assert {name.split(".")[1] for name in names} == {"0", "2"}


def test_the_instruction_and_the_audio_change_the_queries() -> None:
    former = small()
    queries, ids, mask, audio = inputs()
    other = (ids + 1) % 40
    base = former(queries, ids, mask, audio).queries
    assert (former(queries, other, mask, audio).queries - base).abs().max() > 1e-2
    assert (former(queries, ids, mask, audio + 1).queries - base).abs().max() > 1e-2
    blind = Aligner(QFormerSizes(0, 16, 4, 2, 32, 12), 3, 8).eval()
    one, two = (blind.blocks(audio, [1, 1], asked) for asked in ([(1, 2), (3,)], [(5,), (6, 7)]))
    assert torch.equal(one[0], two[0])
    assert not torch.equal(one[0], blind.blocks(audio.flip(2), [1, 1], [(1, 2), (3,)])[0])


def test_without_cross_attention_output_the_audio_changes_nothing() -> None:
    former = small()
    queries, ids, mask, audio = inputs()
    for layer in former.layers:
        if layer.cross is not None:
            torch.nn.init.zeros_(layer.cross.out.weight)
    assert torch.equal(former(queries, ids, mask, audio).queries, former(queries, ids, mask, audio * 3 + 1).queries)


def test_text_never_reads_the_audio_directly() -> None:
    queries, ids, mask, audio = inputs()
    former = small()
    audio.requires_grad_(True)
    seen: list[torch.Tensor] = []
    former.layers[0].register_forward_hook(lambda module, args, output: seen.append(output[0]))
    former(queries, ids, mask, audio)
    told = seen[0][:, 3:]
    assert torch.autograd.grad(told.sum(), audio, retain_graph=True, allow_unused=True)[0].abs().max() == 0  # type: ignore[union-attr]
    asked = torch.autograd.grad(seen[0][:, :3].square().sum(), audio)[0]
    assert asked.abs().max() > 0


def test_padding_and_a_fully_padded_instruction_leave_the_queries_alone() -> None:
    former = small()
    queries, ids, mask, audio = inputs()
    base = former(queries, ids, mask, audio).queries
    changed = ids.clone()
    changed[-1, 4:] = 7
    close(former(queries, changed, mask, audio).queries, base)
    longer = torch.cat([ids, ids], 1)
    close(former(queries, longer, torch.cat([mask, mask * 0], 1), audio).queries, base)
    nothing = former(queries, ids, mask * 0, audio).queries
    assert bool(nothing.isfinite().all())
    close(nothing, former(queries, None, None, audio).queries)


def test_caption_decoding_continues_the_queries_keys_and_values() -> None:
    """The decoder with cached queries equals one pass over [queries, text] in which the queries do not see the text."""
    former = small()
    queries, ids, mask, audio = inputs()
    seen = former(queries, audio=audio)
    have = former(None, ids, mask, past=seen.past, causal=True).text
    # A causal decoder: what comes later changes nothing before it.
    later = ids.clone()
    later[:, 3:] = (later[:, 3:] + 5) % 40
    close(former(None, later, mask, past=seen.past, causal=True).text[:, :3], have[:, :3])
    # And it depends on the audio through the cache alone.
    other = former(queries, audio=audio + 1)
    assert (former(None, ids, mask, past=other.past, causal=True).text - have).abs().max() > 1e-3
    for step in range(1, 5):  # token by token without a mask for the future
        part = former(None, ids[:, :step], mask[:, :step], past=seen.past, causal=True).text
        close(part[:, -1], have[:, step - 1])


def test_segments_read_the_same_instruction_and_follow_each_other() -> None:
    aligner = Aligner(SMALL, 3, 8).eval()
    _, _, _, audio = inputs(3)
    whole = aligner.blocks(audio, [2, 1], [(4, 5), (6,)])
    assert [block.shape for block in whole] == [(1 + 6, 8), (1 + 3, 8)]
    single = aligner.blocks(audio[1:2], [1], [(4, 5)])[0]
    close(whole[0][4:], single[1:])
    assert torch.equal(whole[0][0], aligner.indicator[0, 0])
    assert torch.equal(whole[1][0], aligner.indicator[0, 0])
