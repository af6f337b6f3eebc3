"""A tiny random model of every family in transformers' causal mapping, by one table of small sizes and what some need besides."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

CONTEXT = 64
SIZES: dict[int | float | None, tuple[str, ...]] = {
    96: ("vocab_size",),
    64: ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions", "max_source_positions"),
    48: ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "d_inner", "decoder_ffn_dim", "encoder_ffn_dim", "dff", "ffn_hidden_size"),
    32: ("hidden_size", "n_embd", "d_model", "dim", "emb_dim", "n_embed", "word_embed_proj_dim", "embedding_size"),
    16: (
        "moe_intermediate_size", "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "q_lora_rank", "v_head_dim",
    ),
    8: (
        "head_dim", "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "mamba_d_state", "mamba_d_head", "mamba_n_heads",
        "mamba_num_heads", "mamba_head_dim", "state_size", "ssm_state_size", "linear_key_head_dim", "linear_value_head_dim",
    ),
    4: (
        "num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads", "encoder_attention_heads", "num_experts",
        "num_local_experts", "n_routed_experts", "moe_num_experts", "mamba_dt_rank", "time_step_rank", "linear_num_value_heads",
    ),
    2: (
        "num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers", "num_decoder_layers",
        "num_key_value_heads", "num_kv_heads", "num_experts_per_tok", "moe_topk", "moe_k", "mamba_expand", "linear_num_key_heads",
    ),
    1: ("n_shared_experts", "n_group", "topk_group", "first_k_dense_replace", "mamba_n_groups"),
    None: ("pad_token_id", "bos_token_id", "eos_token_id"),
}  # fmt: skip

CAUSAL: dict[str, Any] = {"is_decoder": True}
PADDED: dict[str, Any] = {**CAUSAL, "pad_token_id": 1}
LATENT: dict[str, Any] = {"num_key_value_heads": 4}
ROTARY: dict[str, Any] = {"rotary_dim": 8}
PART: dict[str, Any] = {"text_config": {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}}


def mixed(first: str, second: str = "full_attention") -> dict[str, Any]:
    return {"layer_types": [first, second]}


NEEDS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("bert", "big_bird", "electra", "ernie", "megatron-bert", "rembert", "roformer", "bert-generation"), CAUSAL),
    "roc_bert": {**CAUSAL, "pronunciation_vocab_size": 20, "shape_vocab_size": 20, "pronunciation_embed_dim": 8, "shape_embed_dim": 8},
    **dict.fromkeys(("roberta", "camembert", "data2vec-text", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm"), PADDED),
    "xmod": {**PADDED, "default_language": "en_XX"},
    **dict.fromkeys(
        ("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "longcat_flash", "minicpm3"), LATENT
    ),
    **dict.fromkeys(("youtu", "dots3_note_text"), LATENT),
    **dict.fromkeys(("emu3", "mllama"), PART),
    **dict.fromkeys(("codegen", "gptj"), ROTARY),
    "cwm": {"bos_token_id": 1, "eos_token_id": 2},
    "modernbert-decoder": {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "zaya": {"num_experts_per_tok": 1},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "falcon_h1": {"mamba_d_ssm": 64},
    "prophetnet": {"pad_token_id": 0},
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), mixed("linear_attention")),
    "bailing_hybrid": {**LATENT, **mixed("linear_attention")},
    "kimi_linear": {**LATENT, **mixed("linear_attention")},
    **dict.fromkeys(("lfm2", "lfm2_moe", "lfm3"), mixed("conv")),
    "granitemoehybrid": mixed("mamba", "attention"),
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2},
    "bamba": {"attn_layer_indices": [1]},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "lru_width": 32},
    "zamba2": {"layer_types": ["mamba", "hybrid"], "hybrid_layer_ids": [1], "num_mem_blocks": 1, "adapter_rank": 8},
    "gemma3n_text": {
        **mixed("sliding_attention"), "vocab_size_per_layer_input": 96, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0,
        "laurel_rank": 4,
    },
    "gemma4_text": {
        **mixed("sliding_attention"), "vocab_size_per_layer_input": 96, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0,
    },
    "gemma4_unified_text": mixed("sliding_attention"),
    "phi4_multimodal": {
        "pad_token_id": 0, "vision_config": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2},
        "audio_config": {"hidden_size": 32, "intermediate_size": 48, "num_blocks": 1, "num_attention_heads": 2},
    },
    "git": {"vision_config": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}},
    "reformer": {
        **CAUSAL, "axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 8], "attn_layers": ["local", "lsh"], "attention_head_size": 8,
    },
    "zamba": {"num_hidden_layers": 4, "layer_types": ["mamba", "hybrid", "mamba", "hybrid"]},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}},
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
}  # fmt: skip


PARTS = ("text_config", "patcher_config", "encoder_config", "decoder_config", "global_config")
"""Configurations inside configurations."""


OUT = {
    "blt": "its patcher alone has 96 million values, whatever the configuration says",
    "dots3_note": "the class of dots3_note_text",
    "gemma4_assistant": "drafts behind another model's cache, and is no language model alone",
    "gemma4_unified_assistant": "drafts behind another model's cache, and is no language model alone",
    "musicgen": "transformers cannot make it by its own mapping",
    "musicgen_melody": "transformers cannot make it by its own mapping",
}
"""Families of which no small model can be made here."""


def families() -> list[str]:
    return [name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in OUT]


def small(config: Any) -> dict[str, Any]:
    """The entries of the table that a configuration has."""
    known = {*vars(config), *getattr(config, "attribute_map", {})}
    return {name: size for size, names in SIZES.items() for name in names if name in known}


def configuration(family: str, **more: Any) -> Any:
    cls = CONFIG_MAPPING[family]
    default, needs = cls(), NEEDS.get(family, {})
    parts = {name: small(part) for name in PARTS if (part := getattr(default, name, None)) is not None}
    if not parts:  # what is left of a configuration with parts keeps its defaults
        return cls(**{**small(default), **needs, **more})
    for name, part in parts.items():
        part.update(NEEDS.get(getattr(default, name).model_type, {}))
        part.update(needs.get(name, {}))
    own = {name: value for name, value in needs.items() if name not in PARTS}
    return cls(**{**parts, **own, **more})


def build(family: str, gain: float = 3.0, **more: Any) -> Any:
    """The model; its weights are far enough apart for a wrong mask, a wrong position, or a part that stays out, to be seen."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(configuration(family, **more)).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.mul_(gain)
            elif parameter.is_floating_point():
                parameter.data.add_(torch.randn_like(parameter) * 0.1)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.forced_eos_token_id = None  # BART's own default ends every answer with token 2
    return model.requires_grad_(False)
