"""Encoders: published counts and layouts, AST of transformers, the keyword transformer's layout, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from pt_audio.adapters.encoders import ASTEncoder
from pt_audio.adapters.kwt import Kwt
from pt_audio.adapters.logmel import LogMel
from pt_audio.adapters.published import load_audiomae
from pt_audio.adapters.vit import AudioViT, ViTSizes, sincos_positions
from pt_audio.backbones import list_backbones, load_backbone
from pt_audio.pretrain.encoder import save
from pt_core import Add, Replace
from pt_core.errors import UserError
from pt_core.randomness import seeded
from safetensors.torch import save_file

from tests.audio import tiny
from tests.audio.tiny import close

PUBLISHED = ViTSizes(frames=64, bins=128, dim=64, depth=2, heads=1, classes=5)


def test_counts_of_the_published_encoder() -> None:
    with torch.device("meta"):
        model = AudioViT(ViTSizes())
    assert sum(parameter.numel() for parameter in model.parameters()) == 85_659_407
    assert model.sizes.grid == (64, 8)
    assert model.pos_embed.shape == (1, 513, 768)  # type: ignore[union-attr]


def test_patches_are_time_major_and_lack_norm_and_class_token() -> None:
    with seeded(0, "vit"):
        model = AudioViT(tiny.VIT)
    spectrogram = torch.randn(1, 32, 16)
    patches = model.patch_embed(spectrogram)
    assert patches.shape == (1, 8, 16)
    kernel, bias = model.patch_embed.proj.weight, model.patch_embed.proj.bias
    for time in range(4):
        for frequency in range(2):
            cut = spectrogram[0, 8 * time : 8 * time + 8, 8 * frequency : 8 * frequency + 8]
            close(patches[0, 2 * time + frequency], (kernel[:, 0] * cut).sum((1, 2)) + bias)
    out = model(spectrogram)
    assert out.shape == (1, 8, 16)
    before = out.clone()
    with torch.no_grad():
        model.norm.weight.mul_(3)
    assert torch.equal(model(spectrogram), before)


def test_positions_tell_time_and_frequency() -> None:
    table = sincos_positions((4, 2), 16)[0]
    assert table.shape == (9, 16)
    assert not bool(table[0].any())
    rows = table[1:].view(4, 2, 16)
    assert torch.equal(rows[0, 0, :8], rows[3, 0, :8])  # the first half is the frequency's
    assert torch.equal(rows[2, 0, 8:], rows[2, 1, 8:])
    assert not torch.equal(rows[0, 0, 8:], rows[1, 0, 8:])


def checkpoint(model: AudioViT) -> dict[str, torch.Tensor]:
    """As the published pre-training files name things, decoder included."""
    more = {
        "decoder_embed.weight": torch.zeros(3, 3),
        "mask_token": torch.zeros(1, 1, 3),
        "decoder_pos_embed": torch.ones(1),
    }
    return {**model.state_dict(), **more}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_checkpoint_of_the_published_layout_loads(suffix: str, tmp_path: Path) -> None:
    with seeded(3, "vit"):
        model = AudioViT(PUBLISHED).eval()
    path = tmp_path / f"mae{suffix}"
    if suffix == ".pth":
        torch.save({"model": checkpoint(model)}, path)
    else:
        save_file({name: t.contiguous() for name, t in checkpoint(model).items()}, path)
    loaded = load_audiomae(path)
    assert loaded.sizes == PUBLISHED
    spectrogram = torch.randn(2, 64, 128)
    close(loaded.eval()(spectrogram), model(spectrogram))
    encoder = load_backbone(f"audiomae:{path}")
    assert encoder.dim == 64
    assert encoder.preprocessing["bins"] == 128
    assert encoder.preprocessing["mean"] is None  # no normalisation, as in the published code


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"model": Evil()}, protocol=2))
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with seeded(3, "vit"):
        tensors = {name: t.contiguous() for name, t in AudioViT(PUBLISHED).state_dict().items()}
    save_file({k: v for k, v in tensors.items() if "blocks.1.attn.proj" not in k}, tmp_path / "part.safetensors")
    for name, message in (
        ("evil.pth", "cannot be read as weights"),
        ("other.safetensors", "has no patch embedding"),
        ("part.safetensors", r"does not fit Audio-MAE: missing \['blocks.1.attn.proj.weight'"),
        ("absent.pth", "does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            load_audiomae(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_ast_vectors_are_transformers_own_in_time_order() -> None:
    config = transformers.ASTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_length=48, num_mel_bins=32
    )
    with seeded(0, "ast"):
        model = transformers.ASTModel(config).eval()
    encoder = ASTEncoder(model, LogMel(frames=48, bins=32), "tiny:ast")
    segments = torch.randn(2, 48, 32)
    times, bins = encoder.grid
    assert (times, bins) == (4, 2)
    want = model(segments).last_hidden_state[:, 2:]
    have = encoder.vectors(segments)
    for time in range(times):
        for frequency in range(bins):
            close(have[:, bins * time + frequency], want[:, times * frequency + time])


def test_ast_loads_from_a_folder_with_its_own_features(tmp_path: Path) -> None:
    config = transformers.ASTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, max_length=48, num_mel_bins=32
    )
    transformers.ASTModel(config).save_pretrained(tmp_path)
    reader = transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=48)
    reader.save_pretrained(tmp_path)
    encoder = load_backbone(f"ast:{tmp_path}")
    wave = torch.randn(6000) * 0.1
    want = np.asarray(reader(wave.numpy(), sampling_rate=16_000)["input_values"][0])
    close(encoder.front(wave)[0], torch.from_numpy(want), 2e-3)


def test_the_keyword_transformer_is_read_from_its_folder(tmp_path: Path) -> None:
    config = {"layers": 2, "dim": 8, "heads": 1, "mlp": 16, "tokens": 99, "layer_norm_eps": 1e-6, "labels": ["a", "b"],
              "log_floor": 1e-12, "norm_sub": 0.0}  # fmt: skip
    g = np.random.default_rng(0)
    arrays = {
        "window": (480,),
        "dft_re": (244, 480),
        "dft_im": (244, 480),
        "mel": (80, 244),
        "dct": (5, 80),
        "norm_scale": (5,),
    }
    np.savez(tmp_path / "frontend.npz", **{k: g.random(v).astype(np.float32) for k, v in arrays.items()})
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = Kwt(config, 5)
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, tmp_path / "model.safetensors")
    encoder = load_backbone(f"kwt:{tmp_path}")
    features = encoder.front(torch.randn(20_000))
    assert features.shape == (2, 98, 5)
    assert encoder.vectors(features).shape == (2, 98, 8)
    x = model.tokens(features)
    close(encoder.module.classify(features), x[:, 0] @ model.head.weight.T + model.head.bias)
    block = model.blocks[0]  # post-norm: the output of a block is normalised
    assert block(torch.randn(1, 4, 8)).mean(-1).abs().max().item() < 1e-5
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no keyword transformer"):
        load_backbone(f"kwt:{tmp_path}")


def test_an_own_encoder_is_written_and_read(tmp_path: Path) -> None:
    with seeded(0, "vit"):
        model = AudioViT(tiny.VIT).eval()
    save(model, tiny.FRONT, tmp_path / "enc")
    encoder = load_backbone(f"local:{tmp_path / 'enc'}")
    assert encoder.front == tiny.FRONT
    segments = torch.randn(2, 32, 16)
    close(encoder.vectors(segments), model(segments), 5e-3)  # stored in half precision
    content = json.loads((tmp_path / "enc" / "config.json").read_text())
    content["sizes"]["dim"] = 32
    (tmp_path / "enc" / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="do not fit"):
        load_backbone(f"local:{tmp_path / 'enc'}")
    content["sizes"]["dimm"] = 1
    (tmp_path / "enc" / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="unknown entry of sizes 'dimm'"):
        load_backbone(f"local:{tmp_path / 'enc'}")


def test_the_site_features_takes_edits() -> None:
    encoder, segments = tiny.encoder(), torch.randn(2, 32, 16)
    plain = encoder(segments).tokens
    close(encoder(segments, {"features": Add(lambda h, layout: h)}).tokens, 2 * plain)
    assert not bool(encoder(segments, {"features": Replace(lambda h, layout: h * 0)}).tokens.any())
    with pytest.raises(UserError, match="has no site 'tokens"):
        encoder(segments, {"tokens[0]": Add(lambda h, layout: h)})


@pytest.mark.parametrize(
    ("spec", "role", "message"),
    [
        ("builtin:mae_sound", "encoder", "did you mean 'mae_sounds'"),
        ("builtin:lm_sounds", "encoder", "known: mae_sounds"),
        ("timm:vit", "encoder", "is of no known kind; use builtin:mae_sounds"),
        ("kwt:nowhere", "encoder", "nowhere has no config.json"),
        ("local:nowhere", "lm", "nowhere has no config.json"),
        ("audiomae:nowhere.pth", "encoder", "does not exist"),
        ("builtin:mae_sounds", "encodr", "did you mean 'encoder'"),
    ],
)
def test_specs_that_are_refused(
    spec: str, role: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        load_backbone(spec, None, role)


def test_the_list_names_every_role() -> None:
    assert {spec.split("=")[0] for spec, _ in list_backbones()} == {"encoder", "text", "lm"}


def test_a_tokenizer_without_an_end_is_refused_and_one_without_padding_is_told() -> None:
    from pt_audio.adapters.language_model import LanguageModel

    bare = transformers.PreTrainedTokenizerFast(tokenizer_object=tiny.lm_tokenizer().backend_tokenizer, bos_token="<s>")
    with pytest.raises(UserError, match="has no end token"):
        LanguageModel(tiny.lm().module, bare, "tiny")
    assert "has no padding token" in tiny.lm().notes[0]
