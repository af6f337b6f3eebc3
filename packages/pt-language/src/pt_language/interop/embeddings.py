"""Tuned prompts as input vectors, for engines that take prompt embeddings per request."""

from __future__ import annotations

from pathlib import Path

import torch
from pt_core import Batch, Insert
from pt_core.errors import ArtifactError, UserError
from pt_core.sealed import check_finite
from torch import Tensor

from pt_language.data.templates import Encoder
from pt_language.method import LanguageMethod
from pt_language.methods.cpt import CPT


def virtual_tokens(method: LanguageMethod) -> Tensor:
    """(L, d) float32: the prompt as input vectors, where it is one that no input changes.

    Raises:
        UserError: the method gives keys and values, or prompts that depend on the text.
    """
    with torch.no_grad():
        if isinstance(method, CPT):
            return method.prompt().detach().float()
        context = getattr(method, "context", None)
        if isinstance(context, Tensor):  # in-context examples
            return method.backbone.embed(context.to(method.backbone.device)).detach().float()
        empty = Batch({}, None, torch.zeros(0, dtype=torch.long), [])
        edit = dict(method.edits(empty)).get("input") if method.static and method.weights is None else None
        if isinstance(edit, Insert) and isinstance(edit.tokens, Tensor):
            return edit.tokens.detach().float()
    raise UserError(
        f"{type(method).__name__} is no list of input vectors (it changes layers, or depends on the text); prompt_tuning, p_tuning, "
        "cpt and icl can be exported as embeddings"
    )


def export_embeddings(method: LanguageMethod, out: Path) -> list[str]:
    """Write the prompt as one safetensors file for engines that take prompt embeddings per request: `prompt_embeds` (L, d), in the
    backbone's own dtype. A request's embeddings are these rows and then the rows of the embedded text (`request_embeddings`).

    Raises:
        UserError: the prompt is no list of input vectors, `out` exists or is not a .safetensors file.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out} must end in .safetensors for --format embeddings")
    if out.exists():
        raise UserError(f"{out} exists; choose another --out")
    rows = virtual_tokens(method).to(method.backbone.dtype).cpu().contiguous()
    check_finite({"prompt_embeds": rows}, "the method")
    from safetensors.torch import save_file

    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")  # complete under its name, or absent
    try:
        save_file({"prompt_embeds": rows}, part, {"backbone": method.backbone.source, "method": type(method).__name__})
        part.replace(out)
    except OSError as error:
        raise ArtifactError(f"{out} cannot be written: {error}") from None
    finally:
        part.unlink(missing_ok=True)
    return ["send the rows of prompt_embeds followed by the embedded text (pt_language.interop.request_embeddings)"]


def request_embeddings(method: LanguageMethod, text: str) -> Tensor:
    """(L + T, d) in the backbone's dtype: what an engine gets for one text, tokenised as while tuning."""
    ids = torch.tensor(method.begin + Encoder(method.backbone.tokenizer).encode(text, 0).ids, dtype=torch.long)
    with torch.no_grad():
        own = method.backbone.embed(ids.to(method.backbone.device))
        return torch.cat([virtual_tokens(method).to(own), own])
