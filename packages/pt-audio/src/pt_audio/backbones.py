"""Backbones by role and name.

encoder   builtin:mae_sounds · audiomae:FILE (published Audio-MAE layout) · kwt:FOLDER · ast:FOLDER_OR_ID · local:FOLDER (own layout)
text      builtin:bert_sounds · local:FOLDER · hf:ID         a BERT, whose weights the Q-former starts from
lm        builtin:lm_sounds · local:FOLDER · hf:ID[@REVISION]  a causal language model, or a vision-language model
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pt_core.errors import UserError, nearest

if TYPE_CHECKING:
    from pt_core.backbone import Backbone

    from pt_audio.adapters.encoders import AudioEncoder

ASSETS = Path(__file__).parent / "assets"
BUILTIN = {"encoder": "mae_sounds", "text": "bert_sounds", "lm": "lm_sounds"}
"""Role -> the network that is shipped, in a folder of this name below assets/."""


def list_backbones() -> list[tuple[str, str]]:
    """(spec, what it is) of what `load_backbone` accepts."""
    return [
        ("encoder=builtin:mae_sounds", "small Audio-MAE style encoder shipped with the package, trained on generated sound"),
        ("encoder=audiomae:FILE", "ViT in the layout of the published Audio-MAE checkpoints (.pth without pickled code, .safetensors)"),
        ("encoder=kwt:FOLDER", "keyword transformer: config.json, frontend.npz, model.safetensors"),
        ("encoder=ast:ID", "Audio Spectrogram Transformer of transformers: a hub id or a folder"),
        ("encoder=local:FOLDER", "an encoder written by `pt-audio pretrain`"),
        ("text=builtin:bert_sounds", "small BERT that the Q-former starts from, trained on generated text"),
        ("text=hf:ID", "a BERT of the hub (the paper: BERT-mini), or local:FOLDER"),
        ("lm=builtin:lm_sounds", "tiny causal language model shipped with the package, trained on generated text"),
        ("lm=hf:ID", "a causal language model of the hub, optionally hf:ID@REVISION, or local:FOLDER"),
    ]  # fmt: skip


def load_backbone(spec: str, weights: str | None = None, role: str = "encoder") -> Backbone:
    """The frozen network behind a spec, in float32, from safetensors and without code from elsewhere.

    Raises:
        UserError: an unknown role or spec, files that are missing or do not fit.
    """
    kind, name = locate(spec, weights, role)
    return LOADERS[role][kind](name, spec)


def locate(spec: str, weights: str | None, role: str) -> tuple[str, str]:
    """(kind, file, folder or hub id) behind a spec, or of the weights that stand in for it; nothing is read.

    Raises:
        UserError: an unknown role or spec, or files that are missing.
    """
    if role not in BUILTIN:
        raise UserError(f"unknown backbone role {role!r}{nearest(role, BUILTIN)}; roles: {', '.join(BUILTIN)}")
    kind, _, name = spec.partition(":")
    if kind == "builtin":
        if name != BUILTIN[role]:
            raise UserError(f"no built-in {role} {name!r}{nearest(name, BUILTIN.values())}; known: {BUILTIN[role]}")
        name, kind = str(ASSETS / name), "local"
    if weights is not None and kind in ("local", "hf", "ast", "audiomae"):
        name, kind = weights, "local" if kind == "hf" else kind
    if kind not in LOADERS[role] or not name:
        raise UserError(
            f"{role} {spec!r} is of no known kind; use builtin:{BUILTIN[role]}, "
            + ", ".join(f"{known}:..." for known in LOADERS[role])
        )
    if kind in ("local", "kwt") and not (Path(name) / "config.json").is_file():
        raise UserError(f"{role} {spec!r}: {name} has no config.json; give a folder that holds the model")
    if kind == "audiomae" and not Path(name).is_file():
        raise UserError(f"weight file {name} does not exist")
    return kind, name


def _config(folder: str) -> dict[str, Any]:
    try:
        content = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}/config.json is not readable JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{folder}/config.json must hold a mapping")
    return content


def _encoder(folder: str, spec: str) -> AudioEncoder:
    """An encoder in the layout that `pretrain.encoder.save` writes."""
    from pt_core.run.declare.options import build_all
    from safetensors.torch import load_file

    from pt_audio.adapters.encoders import AudioMAEEncoder
    from pt_audio.adapters.logmel import LogMel
    from pt_audio.adapters.vit import AudioViT, ViTSizes

    config = _config(folder)
    if config.get("kind") != "audiomae":
        raise UserError(f"{folder} holds an encoder of kind {config.get('kind')!r}; this loader reads 'audiomae'")
    sizes = build_all({"sizes": ViTSizes}, config.get("sizes", {}), "entry of sizes")["sizes"]
    front = build_all({"front": LogMel}, config.get("front", {}), "entry of front")["front"]
    module = AudioViT(sizes)
    try:
        tensors = load_file(Path(folder) / "model.safetensors")
        module.load_state_dict({**{name: t.float() for name, t in tensors.items()}, "pos_embed": module.pos_embed})
    except (OSError, RuntimeError) as error:
        raise UserError(f"the weights in {folder} do not fit ({' '.join(str(error).split())[:200]})") from None
    return AudioMAEEncoder(module, front, spec)


def _audiomae(path: str, spec: str) -> AudioEncoder:
    from pt_audio.adapters.encoders import AudioMAEEncoder
    from pt_audio.adapters.logmel import LogMel
    from pt_audio.adapters.published import load_audiomae

    return AudioMAEEncoder(load_audiomae(Path(path)), LogMel(), spec)


def _kwt(folder: str, spec: str) -> AudioEncoder:
    from pt_audio.adapters.encoders import KwtEncoder
    from pt_audio.adapters.kwt import load_kwt

    return KwtEncoder(*load_kwt(Path(folder), _config(folder)), spec)


def _ast(name: str, spec: str) -> AudioEncoder:
    from transformers import ASTFeatureExtractor, ASTModel

    from pt_audio.adapters.encoders import ASTEncoder
    from pt_audio.adapters.logmel import LogMel

    module = _pretrained(ASTModel, name, spec)
    reader = _pretrained(ASTFeatureExtractor, name, spec)
    mean, std = (reader.mean, reader.std) if reader.do_normalize else (None, None)
    front = LogMel(reader.sampling_rate, reader.max_length, reader.num_mel_bins, mean=mean, std=std, peak=False)
    return ASTEncoder(module, front, spec)


def _text(name: str, spec: str) -> Backbone:
    from transformers import AutoTokenizer, BertModel

    from pt_audio.adapters.text_model import TextModel

    module = _pretrained(BertModel, name, spec, add_pooling_layer=False)
    return TextModel(module, _pretrained(AutoTokenizer, name, spec), spec)


def _lm(name: str, spec: str) -> Backbone:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

    from pt_audio.adapters.language_model import LanguageModel

    config = _pretrained(AutoConfig, name, spec)
    cls: Any = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    return LanguageModel(_pretrained(cls, name, spec), _pretrained(AutoTokenizer, name, spec), spec)


def _pretrained(cls: Any, name: str, spec: str, **further: Any) -> Any:
    """`cls.from_pretrained`, from safetensors only and without code from a folder or hub."""
    import torch
    from transformers.utils import logging

    where, _, revision = (name, "", "") if Path(name).is_dir() else name.partition("@")
    options: dict[str, Any] = {"revision": revision} if revision else {}
    if Path(where).is_dir():
        options["local_files_only"] = True
    if hasattr(cls, "forward") or cls.__name__.startswith("AutoModel"):
        options |= {"use_safetensors": True, "dtype": torch.float32}
    if cls.__name__.startswith("Auto"):
        options["trust_remote_code"] = False
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return cls.from_pretrained(where, **options, **further)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{spec!r} cannot be loaded ({reason}); check the name, the network and the files") from None
    finally:
        if shown:
            logging.enable_progress_bar()


LOADERS: Mapping[str, Mapping[str, Callable[[str, str], Any]]] = {
    "encoder": {"local": _encoder, "audiomae": _audiomae, "kwt": _kwt, "ast": _ast},
    "text": {"local": _text, "hf": _text},
    "lm": {"local": _lm, "hf": _lm},
}
"""Role -> kind of spec -> fn(file, folder or hub id; spec)."""
