"""Networks from names, folders and weight files: complete or refused in one line; pictures are prepared as open_clip prepares them."""

from __future__ import annotations

import json

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from pt_core.errors import UserError
from pt_vision import load_backbone
from pt_vision.backbones import problem
from pt_vision.data.transforms import evaluation_transform, training_transform
from pt_vision.networks.clip.tokens import framing
from safetensors.torch import save_file

from tests.vision.clip.networks import TEXT, VISION, pair

SETTINGS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}


def folder(path, preprocessing=SETTINGS, state=None, **model):
    path.mkdir()
    config = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT, **model}
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocessing}))
    tensors = {name: tensor.contiguous() for name, tensor in (state or pair().module.state_dict()).items()}
    save_file(tensors, path / "open_clip_model.safetensors")
    return path


@pytest.mark.parametrize("kind", ["local", "file"])
def test_a_folder(tmp_path, kind):
    spec = f"{kind}:{folder(tmp_path / 'net')}"
    assert problem(spec) is None
    dual = load_backbone(spec)
    with torch.no_grad():
        want = pair().module.encode_text(pair().tokenizer(["a cat"], context_length=16))
        torch.testing.assert_close(dual.text.encode_words(["cat"], ["a {}"]), want, rtol=1e-5, atol=1e-5)
    assert dual.image.preprocessing["mean"] == SETTINGS["mean"]
    with pytest.raises(UserError, match="own weights"):
        load_backbone(spec, tmp_path / "net" / "open_clip_model.safetensors")
    with pytest.raises(UserError, match="own size"):
        load_backbone(spec, image_size=64)


def test_a_folder_that_lacks_something(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "open_clip_config.json").write_text('{"model_cfg": {"vision_cfg": {}}}')
    assert "no weights" in problem(f"local:{tmp_path / 'empty'}")
    (tmp_path / "empty" / "open_clip_model.safetensors").write_bytes(b"")
    assert "text_cfg" in problem(f"local:{tmp_path / 'empty'}")
    state = pair().module.state_dict()
    del state["ln_final.weight"]
    with pytest.raises(UserError, match=r"does not fit CLIP: it lacks ln_final\.weight"):
        load_backbone(f"local:{folder(tmp_path / 'lacking', state=state)}")
    state = {**pair().module.state_dict(), "logit_scale": torch.tensor(float("nan"))}
    with pytest.raises(UserError, match="NaN"):
        load_backbone(f"local:{folder(tmp_path / 'nan', state=state)}")


def test_names():
    assert "did you mean 'ViT-B-32'" in problem("open_clip:ViT-B-31")
    assert "openai" in problem("open_clip:ViT-B-32@openaj")
    with pytest.raises(UserError, match="needs weights: a file with --weights FILE, or a tag"):
        load_backbone("open_clip:ViT-B-32")
    meta = load_backbone("open_clip:ViT-B-16", device="meta")
    assert (meta.image.depth, meta.image.dim, meta.text.dim, meta.text.length) == (12, 768, 512, 77)


@pytest.fixture
def registered(tmp_path):
    """The tiny network under a name of open_clip's."""
    path = tmp_path / "tiny-for-tests.json"
    path.write_text(json.dumps({"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}))
    open_clip.add_model_config(path)
    yield "tiny-for-tests"
    open_clip.factory._MODEL_CONFIG_PATHS.remove(path)
    open_clip.factory._rescan_model_configs()


def test_weight_files(tmp_path, registered):
    state = pair().module.state_dict()
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "plain.pt")
    torch.save(
        {**state, "input_resolution": torch.tensor(32), "context_length": torch.tensor(16)}, tmp_path / "openai.pt"
    )
    save_file({name: tensor.half().contiguous() for name, tensor in state.items()}, tmp_path / "half.safetensors")
    for name in ("plain.pt", "openai.pt", "half.safetensors"):
        dual = load_backbone(f"open_clip:{registered}", tmp_path / name)
        have = dual.image.module.conv1.weight
        torch.testing.assert_close(have, state["visual.conv1.weight"], rtol=1e-3, atol=1e-3)
        assert have.dtype == torch.float32
    with pytest.raises(UserError, match="leave out @openai"):
        load_backbone("open_clip:ViT-B-32@openai", tmp_path / "plain.pt")


def test_a_scripted_archive_is_refused_with_the_way_out(tmp_path, registered):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "scripted.pt")
    with pytest.raises(UserError, match=r"TorchScript archive.*run the code inside.*state_dict\(\)"):
        load_backbone(f"open_clip:{registered}", tmp_path / "scripted.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "pickled.pt")
    with pytest.raises(UserError, match="run code"):
        load_backbone(f"open_clip:{registered}", tmp_path / "pickled.pt")


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pictures_are_prepared_bit_equal(tmp_path, mode, interpolation):
    settings = {**SETTINGS, "resize_mode": mode, "interpolation": interpolation, "fill_color": 3}
    dual = load_backbone(f"local:{folder(tmp_path / 'net', settings)}")
    own = evaluation_transform(dual.image.preprocessing)
    theirs = image_transform_v2(PreprocessCfg(size=32, **settings), is_train=False)
    rng = np.random.default_rng(0)
    for size in ((47, 61), (32, 32), (20, 90)):
        picture = Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8))
        assert torch.equal(own(picture), theirs(picture))
    drawn = training_transform(dual.image.preprocessing, "standard")
    assert drawn(Image.fromarray(rng.integers(0, 255, (50, 40, 3), dtype=np.uint8))).shape == (3, 32, 32)


def test_rows_are_those_of_the_tokenizer():
    tokenizer = open_clip.SimpleTokenizer(context_length=16, clean="canonicalize")
    frame = framing(tokenizer, 16, "tiny")
    texts = ["A Photo, of a (big) DOG!", "x", ""]
    assert np.array_equal(frame.rows([frame.tokens(text) for text in texts]), tokenizer(texts).numpy())

    class Reversed:
        sot_token_id, eot_token_id, encode = 49407, 49406, tokenizer.encode

        def __call__(self, texts, context_length):
            return tokenizer(texts, context_length)

    with pytest.raises(UserError, match="unknown form"):
        framing(Reversed(), 16, "tiny")
