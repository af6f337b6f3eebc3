"""A few steps of every recipe: the weights are what they were when the built-in networks were made.

The numbers are losses (or shares, or a second network) and projections of the weights onto fixed signs. They tell another order of draws or
schedule, and leave room for the rounding of other processors, which the first steps of Adam magnify. That the loop is what a loop written
out does, to the bit, is tested in tests/core/run/pretrain.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from tests.vision.pictures import picture

pytestmark = pytest.mark.slow


def projection(tensors: Mapping[str, Tensor]) -> float:
    total = 0.0
    for name in sorted(tensors):
        if tensors[name].is_floating_point():
            values = tensors[name].detach().double().flatten()
            total += float(values @ torch.arange(len(values), dtype=torch.float64).mul(1.7).cos().sign())
    return total


def vit(out: Path) -> tuple[float, float]:
    from pt_vision.classification.pretrain.config import PretrainConfig
    from pt_vision.classification.pretrain.run import pretrain

    config = PretrainConfig(img_size=16, patch_size=8, embed_dim=32, depth=2, num_heads=2, steps=12, batch_size=8)
    images = [(Image.fromarray(picture(number)), number % 3) for number in range(30)]
    report = pretrain(config, out / "net.safetensors", images, device="cpu", progress=False)
    return report.train_loss, projection(load_file(report.out))


def segmenter(out: Path) -> tuple[float, float]:
    from pt_vision.segmentation.pretrain import SegmenterConfig, pretrain_segmenter

    config = SegmenterConfig((8, 8, 16, 16), (1, 1, 1, 1), (1, 1, 2, 2), 8, 64, steps=8, batch_size=2)
    card = pretrain_segmenter(config, out / "net.safetensors", progress=False)
    return card["results"]["train_loss"], projection(load_file(out / "net.safetensors"))


def language(out: Path) -> tuple[float, float]:
    from pt_language.pretrain.config import PretrainConfig
    from pt_language.pretrain.episodes import Episodes
    from pt_language.pretrain.material import Material, train_tokenizer
    from pt_language.pretrain.train import train

    rng = random.Random(5)
    words = ["".join(rng.choices("abcdefgh", k=5)) for _ in range(60)]
    texts = {f"m{n}": [" ".join(rng.choices(words, k=9)) for _ in range(9)] for n in range(7)}
    labels = [f"label{chr(97 + n)}" for n in range(12)]
    corpus = [*(f" {word}" for word in labels * 9), *(text for found in texts.values() for text in found)]
    tokenizer = train_tokenizer(corpus * 20, 500)
    episodes = Episodes(tokenizer, texts, labels, list(range(1, 500)) * 4)
    config = PretrainConfig(vocabulary=500, width=64, inner=32, steps=6, tokens_per_step=384, warmup=4)
    kept: list[tuple[float, float]] = []

    def keep(model: torch.nn.Module, done: int, loss: float) -> str:
        kept.append((loss, projection(dict(model.named_parameters()))))
        return ""

    train(config, Material(tokenizer, episodes, episodes), keep)
    return kept[-1]


def audio_encoder(out: Path) -> tuple[float, float]:
    from pt_audio.pretrain.encoder import EncoderConfig, pretrain

    recipe = pretrain(EncoderConfig(dim=32, depth=2, heads=2, clips=16, steps=6, batch_size=4), out)
    return recipe["held_out_tags"], projection(load_file(out / "model.safetensors"))


def audio_text(out: Path) -> tuple[float, float]:
    from pt_audio.backbones import ASSETS
    from pt_audio.pretrain.text import TextConfig, train_bert, train_lm
    from transformers import AutoTokenizer

    config = TextConfig(width=32, depth=1, inner=32, text_width=16, text_steps=5, steps=6, batch_size=4)
    torch.manual_seed(0)
    networks = [
        train(config, AutoTokenizer.from_pretrained(ASSETS / name))[0]
        for train, name in ((train_lm, "lm_sounds"), (train_bert, "bert_sounds"))
    ]
    found = [projection(dict(network.named_parameters())) for network in networks]
    return found[0], found[1]


def timeseries(out: Path) -> tuple[float, float]:
    from pt_timeseries.options import PretrainOptions
    from pt_timeseries.pretrain import pretrain

    from tests.timeseries.common import waves

    options = PretrainOptions(
        patch=8,
        patch_stride=4,
        dim=12,
        depth=1,
        heads=2,
        hidden=16,
        epochs=4,
        masked_epochs=2,
        batch_size=12,
        experts=2,
    )
    report = pretrain(options, waves(per_class=10), None, progress=False)
    return report.train_loss, projection(dict(report.backbone.module.named_parameters()))


def pointcloud(out: Path) -> tuple[float, float]:
    from pt_pointcloud.options import PretrainOptions
    from pt_pointcloud.pretrain import pretrain

    options = PretrainOptions(
        points=48, groups=8, group_size=6, dim=16, depth=2, heads=2, first=4, decoder_depth=1, steps=10, batch_size=8
    )
    report = pretrain(options, out / "net.safetensors", device="cpu", progress=False)
    return 1e3 * report.train_loss, projection(load_file(report.out))


def graph(out: Path) -> tuple[float, float]:
    from pt_graph.pretrain import OBJECTIVES, PretrainConfig, pretrain, pretraining_graphs

    graphs, source = pretraining_graphs(None, 0)
    loss, total = 0.0, 0.0
    for objective in OBJECTIVES:
        config = PretrainConfig(objective=objective, dim=16, layers=3, epochs=2, batch_size=32)  # type: ignore[arg-type]
        pretrain(config, graphs[:96], out / f"{objective}.safetensors", source)
        loss += json.loads((out / f"{objective}.json").read_text())["lowest_loss"]
        total += projection(load_file(out / f"{objective}.safetensors"))
    return loss, total


GOLDEN: dict[Callable[[Path], tuple[float, float]], tuple[float, float]] = {
    vit: (1.1051, 7.644),
    segmenter: (2.2597, -19.295),
    language: (4.4788, -49.81),
    audio_encoder: (0.6733, 18.565),
    audio_text: (8.7499, 16.468),
    timeseries: (1.1218, 1.3264),
    pointcloud: (279.96, 12.689),
    graph: (7.7548, 0.2085),
}


@pytest.mark.parametrize("recipe", GOLDEN, ids=lambda recipe: recipe.__name__)
def test_a_recipe_makes_the_weights_that_it_made(recipe: Callable[[Path], tuple[float, float]], tmp_path: Path) -> None:
    first, second = recipe(tmp_path)
    assert first == pytest.approx(GOLDEN[recipe][0], rel=8e-3)
    assert second == pytest.approx(GOLDEN[recipe][1], rel=0.05, abs=0.05)
