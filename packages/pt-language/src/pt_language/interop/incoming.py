"""Prompts from elsewhere as tuned methods on a backbone."""

from __future__ import annotations

from pathlib import Path

import torch
from pt_core import Task
from pt_core.errors import ArtifactError
from torch import Tensor

from pt_language.adapters.base import LanguageBackbone
from pt_language.context import check_codes
from pt_language.interop.foreign import Foreign, read_foreign
from pt_language.interop.peft_folder import decoder_slots, even
from pt_language.method import LanguageMethod
from pt_language.methods.cpt import CPT, CPTConfig
from pt_language.methods.prefix import Prefix, PrefixConfig
from pt_language.methods.prompt_tuning import PromptTuning, PromptTuningConfig


def import_peft(path: Path, backbone: LanguageBackbone, task: Task) -> tuple[str, LanguageMethod]:
    """(method id, tuned method) behind a PEFT folder or a `.npy` prompt; it predicts, and can be tuned further.

    Args:
        backbone: the model that the prompt was tuned on. The folder does not decide what is loaded.
        task: what the prompt is used for; PEFT folders do not say.

    Raises:
        ArtifactError: unreadable, or of other sizes than the backbone; names both.
    """
    return build(read_foreign(path), backbone, task)


def build(foreign: Foreign, backbone: LanguageBackbone, task: Task) -> tuple[str, LanguageMethod]:
    """(method id, tuned method) of a prompt that was read."""
    prompt, roles = foreign.prompt, {"backbone": backbone}
    length, width = prompt.shape
    if foreign.kind == "PREFIX_TUNING":
        prompt = _check_prefix(foreign, backbone)
        prefix = Prefix(PrefixConfig(prompt_length=length, init="zero"), roles, task)
        _fill(prefix.prompt, prompt)
        return "prefix", prefix
    if width != backbone.dim:
        raise ArtifactError(
            f"the prompt has width {width}, backbone {backbone.source!r} has {backbone.dim}; "
            "give the model it was tuned on"
        )
    if foreign.kind == "CPT":
        return "cpt", _build_cpt(foreign, backbone, task)
    tuned = PromptTuning(PromptTuningConfig(prompt_length=length, init="normal"), roles, task)
    _fill(tuned.prompt, prompt)
    return "prompt_tuning", tuned


def _check_prefix(foreign: Foreign, backbone: LanguageBackbone) -> Tensor:
    """The prefix (L, 2 N d_kv) in our order, for this backbone."""
    width, parts = foreign.prompt.shape[1], foreign.numbers.get("num_transformer_submodules", 1)
    paired = backbone.kind == "encoder-decoder"
    if parts != (2 if paired else 1):
        raise ArtifactError(
            f"the prefix is for {'an encoder-decoder' if parts == 2 else 'a model of one stack'} (num_transformer_submodules {parts}); "
            f"{backbone.source!r} is of kind {backbone.kind}"
        )
    kept = even(backbone)
    if kept is None:
        raise ArtifactError(
            f"backbone {backbone.source!r} does not keep keys and values of one width in all layers, as PEFT's prefixes have"
        )
    depth, heads, head_dim = kept
    per_layer = 2 * heads * head_dim
    layers = width // per_layer if paired and width % per_layer == 0 else depth
    expected = {"num_layers": layers, "num_attention_heads": heads, "token_dim": heads * head_dim}
    other = [name for name, size in expected.items() if foreign.numbers.get(name, size) != size]
    if other or width != layers * per_layer or layers < depth:
        found = ", ".join(f"{name} {foreign.numbers[name]}" for name in other) or f"rows of {width}"
        raise ArtifactError(
            f"the prefix has {found}; backbone {backbone.source!r} needs rows of 2 x {depth} layers x {heads} "
            f"key/value heads x width {head_dim} = {depth * per_layer}" + (" or more" if paired else "")
        )
    if not paired:
        return foreign.prompt
    slots = foreign.prompt.view(len(foreign.prompt), 2 * layers, -1)
    return slots[:, decoder_slots(layers, depth)].flatten(1)


def _build_cpt(foreign: Foreign, backbone: LanguageBackbone, task: Task) -> CPT:
    """E0 from the ids in the configuration; delta is what the stored prompt has beyond it."""
    ids, codes = (
        torch.tensor(foreign.lists.get(name, []), dtype=torch.long)
        for name in ("cpt_token_ids", "cpt_tokens_type_mask")
    )
    try:
        check_codes(ids, codes)
    except ValueError as error:
        raise ArtifactError(f"the CPT context is not valid: {error}") from None
    if len(ids) != len(foreign.prompt) or int(ids.min()) < 0 or int(ids.max()) >= len(backbone.embeddings):
        raise ArtifactError(
            f"the CPT context has {len(ids)} token ids for {len(foreign.prompt)} rows, or ids outside the vocabulary"
        )
    # The stored sum was computed in the backbone's dtype; a radius is a positive number or what the paper's code has by default.
    radius = {
        n: max(0.0, foreign.numbers.get(f"opt_projection_{o}epsilon", 0.1))
        for n, o in (("input", ""), ("format", "format_"))
    }
    gamma = min(max(foreign.numbers.get("opt_loss_decay_factor", 1.0), 1e-6), 1.0)
    config = CPTConfig(epsilon_input=radius["input"], epsilon_format=radius["format"], gamma=gamma)
    method = CPT(config, {"backbone": backbone}, task)
    method.set_context(ids, codes)
    with torch.no_grad():
        delta = foreign.prompt.to(method.delta.device) - backbone.embed(method.ids.to(backbone.device)).float().to(
            method.delta.device
        )
        fixed = delta[~method.movable.to(delta.device)]
        scale = float(backbone.embeddings.abs().max())
        if fixed.numel() and float(fixed.abs().max()) > 1e-3 * scale:
            raise ArtifactError(
                "the CPT context's label rows differ from the backbone's embeddings: it was tuned on another model"
            )
        delta[~method.movable.to(delta.device)] = 0
        method.delta.copy_(delta)
    return method


def _fill(parameter: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(values)
