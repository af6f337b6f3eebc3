"""Weight files into an open_clip model: read without running code, complete or refused."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from pt_core.errors import UserError
from pt_core.weights import listed
from torch import Tensor

from pt_vision.networks.weights import read_weights

SCRIPTED = ("input_resolution", "context_length", "vocab_size")
"""Numbers that OpenAI's archives keep among the weights."""
POSITIONS = "text.transformer.embeddings.position_ids"
"""A counter that older versions of transformers stored."""


def read_clip_weights(path: Path) -> dict[str, Tensor]:
    """Name -> float32 tensor.

    Raises:
        UserError: as `read_weights`; a scripted archive, which is code, with the way out.
    """
    if path.is_file() and path.suffix != ".safetensors" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any("/code/" in name for name in archive.namelist()):
                raise UserError(
                    f"{path} is a TorchScript archive, and loading it would run the code inside; where you trust it, write its weights "
                    "once: "
                    f"python -c \"import torch; torch.save(torch.jit.load('{path.name}', 'cpu').state_dict(), 'w.pt')\""
                )
    return read_weights(path)


def load_clip_weights(model: Any, state: dict[str, Tensor], where: str) -> None:
    """Copy weights into an open_clip model; other layouts of the same networks are converted by open_clip's own rules.

    Raises:
        UserError: missing or unknown names, another shape, NaN or infinite values.
    """
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed

    state = {name: tensor for name, tensor in state.items() if name not in SCRIPTED}
    state = convert_state_dict(model, state)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    wanted = model.state_dict()
    if POSITIONS not in wanted:
        state.pop(POSITIONS, None)
    for name in ("logit_scale", "logit_bias"):
        if name in state and name in wanted and state[name].numel() == wanted[name].numel() == 1:
            state[name] = state[name].reshape(wanted[name].shape)
    missing, unknown = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    if missing or unknown:
        lists = [f"{word} {listed(names)}" for word, names in (("lacks", missing), ("has unknown", unknown)) if names]
        raise UserError(f"{where} does not fit {type(model).__name__}: it {' and '.join(lists)}; check the model name")
    if torch.is_tensor(state.get("visual.positional_embedding")):
        resize_pos_embed(state, model)
    if "positional_embedding" in state or "text.positional_embedding" in state:
        resize_text_pos_embed(state, model)
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            raise UserError(
                f"{where}: {name} has shape {tuple(tensor.shape)}, the model needs {tuple(wanted[name].shape)}; check the model name"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{where}: {name} holds NaN or infinite values; fetch the file again")
    model.load_state_dict(state, strict=True)
