"""Tiny random networks of two towers, built in code without download: one row per kind of tower that the adapters treat differently."""

from __future__ import annotations

from functools import cache
from typing import Any

import open_clip
import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from pt_core.dual import DualBackbone
from pt_vision.adapters.clip.load import adapt_pair
from pt_vision.networks.clip.models import Pair, image_settings

VISION = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 48, "heads": 2, "layers": 3}
RESNET = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "head_width": 16}
TIMM = {"timm_model_name": "test_vit", "image_size": 160, "timm_pool": "avg", "timm_proj": "linear"}
COCA = {"context_length": 16, "vocab_size": 49408, "width": 48, "heads": 2, "layers": 1}

Config = dict[str, Any]
KINDS: dict[str, Config] = {
    "clip": {},
    "quick_gelu": {"quick_gelu": True},
    "avg": {"vision": {"pool_type": "avg", "final_ln_after_pool": True}},
    "custom": {"cls": CustomTextCLIP, "text": {"proj_bias": True}},
    "siglip": {
        "cls": CustomTextCLIP,
        "text": {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
        "vision": {"no_ln_pre": True},
        "init_logit_bias": -10.0,
    },
    "eos": {"cls": CustomTextCLIP, "text": {"pool_type": "eos", "eos_id": 49407}},
    "first": {"cls": CustomTextCLIP, "text": {"pool_type": "first", "no_causal_mask": True}},
    "cosine": {"text": {"block_type": "custom", "qk_norm": True}, "vision": {"qk_norm": True}},
    "scaled": {"text": {"ls_init_value": 0.5}, "vision": {"ls_init_value": 0.5}},
    "coca": {
        "cls": CoCa,
        "text": {"embed_cls": True, "output_tokens": True},
        "vision": {"output_tokens": True, "attentional_pool": True, "attn_pooler_heads": 2},
    },
    "resnet": {"vision": RESNET},
    "timm": {"vision": TIMM},
}  # fmt: skip


def pair(kind: str = "clip", seed: int = 0, **changes: Any) -> Pair:
    """An open_clip model (widths of text, image and joint space differ), its preprocessing and its tokenizer."""
    config = {**KINDS[kind], **changes}
    cls = config.pop("cls", CLIP)
    vision, text = config.pop("vision", {}), {**TEXT, **config.pop("text", {})}
    whole = "timm_model_name" in vision or isinstance(vision.get("layers"), list)
    extra = {"multimodal_cfg": COCA} if cls is CoCa else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = cls(
            embed_dim=config.pop("embed_dim", 24),
            vision_cfg=vision if whole else {**VISION, **vision},
            text_cfg=text,
            **config,
            **extra,
        )
        with torch.no_grad():  # tables start almost equal; their differences must show
            for name, tensor in module.named_parameters():
                if "embedding" in name or "cls_emb" in name:
                    tensor.mul_(20)
    return Pair(module.eval(), image_settings(module), open_clip.SimpleTokenizer(context_length=text["context_length"]))


def nano(seed: int = 0, kind: str = "clip", **changes: Any) -> DualBackbone:
    """The same behind the contract."""
    return adapt_pair(pair(kind, seed, **changes), f"open_clip:nano-{kind}-{seed}")


@cache
def shared_nano(kind: str = "clip") -> DualBackbone:
    return nano(kind=kind)
