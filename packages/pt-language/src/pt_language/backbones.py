"""Backbones by name: `builtin:NAME`, `local:FOLDER` and `hf:ID` (a hub model, optionally `hf:ID@REVISION`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pt_core.errors import UserError, problem_of, unless_known

if TYPE_CHECKING:
    from pt_language.adapters.base import LanguageBackbone

ASSETS = Path(__file__).parent / "assets"
DEFAULT = "builtin:lm_docs"


def builtin_names() -> list[str]:
    return sorted(path.parent.name for path in ASSETS.glob("*/config.json"))


def list_backbones() -> list[tuple[str, str]]:
    """(spec, what it is) of what `load_backbone` accepts."""
    return [
        *(
            (f"builtin:{name}", "tiny causal language model shipped with the package, trained to learn in context")
            for name in builtin_names()
        ),
        (
            "hf:ID",
            "a hub model: causal (GPT-2, Llama, Qwen, Mistral ...), encoder-decoder (T5 ...) or encoder (BERT ...)",
        ),
        ("hf:ID@REVISION", "the same at a fixed revision"),
        ("local:FOLDER", "a folder in the hub's layout: config.json, model.safetensors, tokenizer.json"),
    ]


def problem(spec: str) -> str | None:
    """What is wrong with a backbone spec, as far as its name and the file system tell; no weights are read."""
    return problem_of(locate, spec)


def load_backbone(spec: str, weights: str | None = None, device: str = "cpu") -> LanguageBackbone:
    """Load a frozen language model in float32, from safetensors only and without code from elsewhere.

    Args:
        spec: see `list_backbones`.
        weights: a folder in the hub's layout that replaces the hub for `hf:ID`.
        device: where to put it; `meta` builds it without weights.

    Raises:
        UserError: an unknown spec, files that are missing, or a network of no supported kind.
    """
    kind, _, name = spec.partition(":")
    if kind == "hf" and name and weights is not None:
        spec = f"local:{weights}"
    return _load(spec, *locate(spec), device)


def locate(spec: str) -> tuple[str | Path, str | None]:
    """(folder or hub id, revision) behind a spec; nothing is read.

    Raises:
        UserError: an unknown spec, or a folder without a model.
    """
    kind, _, name = spec.partition(":")
    if kind == "builtin":
        unknown = unless_known("built-in backbone", name, builtin_names())
        if unknown is not None:
            raise UserError(unknown)
        return ASSETS / name, None
    if kind == "local" and name:
        folder = Path(name)
        if not (folder / "config.json").is_file():
            raise UserError(
                f"{folder} has no config.json; expected the hub's layout (config.json, model.safetensors, tokenizer.json)"
            )
        return folder, None
    if kind == "hf" and name:
        identifier, _, revision = name.partition("@")
        return identifier, revision or None
    raise UserError(f"backbone {spec!r} is of no known kind; use builtin:NAME, hf:ID or local:FOLDER")


def _load(spec: str, where: str | Path, revision: str | None, device: str) -> LanguageBackbone:
    import torch
    from transformers import AutoConfig, AutoTokenizer
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # loading is quick, and a bar of another library between our lines confuses
    options: dict[str, Any] = {"revision": revision} if revision else {}
    if isinstance(where, Path):
        options["local_files_only"] = True
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=False, **options)
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **options)
        auto = _auto_class(config, spec)
        if device == "meta":
            with torch.device("meta"):
                model = auto.from_config(config)
            if _has_own_head(where, options, model):
                head = model.get_output_embeddings()
                head.weight = torch.nn.Parameter(torch.empty_like(head.weight))
        else:
            model = auto.from_pretrained(
                where, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, **options
            )
    except UserError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, json.JSONDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        what = f"{where} cannot be loaded" if isinstance(where, Path) else f"hub model {where!r} cannot be loaded"
        raise UserError(
            f"{what} ({type(error).__name__}: {reason}); check the name, the network and the files"
        ) from None
    finally:
        if shown:
            logging.enable_progress_bar()
    backbone = adapt(model, tokenizer, spec)
    if device != "meta":
        backbone.to(device)
    return backbone


def _has_own_head(where: str | Path, options: dict[str, Any], model: Any) -> bool:
    """Whether a model whose configuration ties its output head to its embeddings is stored with another one. T5 1.1 and mT5 are: the
    library takes their `tie_word_embeddings: false` for something else and lets the weights decide, which are not read here."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not embeddings.weight:
        return False
    file = where / "model.safetensors" if isinstance(where, Path) else None
    if file is None or not file.is_file():
        told, _ = type(model.config).get_config_dict(where, **options)
        return told.get("tie_word_embeddings") is False
    import torch
    from safetensors import safe_open

    named = dict(model.named_parameters(remove_duplicate=False))
    tied = {name for name, tensor in named.items() if tensor is head.weight}
    heads = {name for name, module in model.named_modules() if module is head}
    with safe_open(file, framework="pt") as stored:
        found = sorted(tied & set(stored.keys()))
        own = [name for name in found if name.rpartition(".")[0] in heads]
        others = [name for name in found if name not in own]
        if not own or not others:
            return False
        return not torch.equal(stored.get_tensor(own[0]), stored.get_tensor(others[0]))


def _auto_class(config: Any, spec: str) -> Any:
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM
    names = getattr(config, "architectures", None) or []
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        return AutoModelForCausalLM
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return AutoModel
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return AutoModelForCausalLM
    raise UserError(
        f"backbone {spec!r} ({config.model_type}) is neither a causal LM, nor an encoder-decoder, nor an encoder"
    )


def adapt(model: Any, tokenizer: Any = None, source: str | None = None) -> LanguageBackbone:
    """The backbone around a loaded transformers model, which is frozen and put in eval mode.

    Args:
        model: a causal language model, an encoder-decoder with its output head, or an encoder without one.
        tokenizer: the model's own; left out, the one beside the files that the model was loaded from, if there is one.
        source: what the model is called in messages and artifacts (default: that it is a network of one's own).

    Raises:
        UserError: a network of another kind.
    """
    from transformers import PreTrainedModel
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    from pt_language.adapters.decoder import DecoderBackbone
    from pt_language.adapters.encoder import EncoderBackbone
    from pt_language.adapters.encoder_decoder import EncoderDecoderBackbone

    name = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise UserError(f"pt-language has no adapter for a {name}; give a model of transformers")
    source = source or f"module:{name}"
    tokenizer = tokenizer or _tokenizer_beside(model)
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return DecoderBackbone(model, tokenizer, source)
    if model.config.is_encoder_decoder and model.get_output_embeddings() is not None:
        return EncoderDecoderBackbone(model, tokenizer, source)
    if name.endswith("Model") and model.config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return EncoderBackbone(model, tokenizer, source)
    raise UserError(
        f"a {name} is neither a causal language model (...ForCausalLM), nor an encoder-decoder with its output head "
        "(...ForConditionalGeneration), nor an encoder without one (...Model, a classifier's base_model)"
    )


def _tokenizer_beside(model: Any) -> Any:
    """The tokenizer where the model was loaded from, if it is on this machine; None for a model that was made in memory."""
    from transformers import AutoTokenizer

    if not model.name_or_path:
        return None
    try:
        return AutoTokenizer.from_pretrained(model.name_or_path, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError):
        return None
