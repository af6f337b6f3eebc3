"""Generation behind a cache or from vectors, by the model's own search."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from pt_core.bridges.transformers.cache import cropped, repeat
from pt_core.bridges.transformers.hooks import SlotFn, slotted
from pt_core.bridges.transformers.model import accepts, embed, first_position, packed_positions, shown
from pt_core.errors import UserError

WITHOUT = {
    "cache_implementation": None, "cache_config": None, "max_cache_len": None, "prefill_chunk_size": None, "use_cache": True,
    "prompt_lookup_num_tokens": None, "assistant_early_exit": None, "token_healing": False, "return_dict_in_generate": False,
    "output_scores": False, "output_logits": False, "output_attentions": False, "output_hidden_states": False,
    "num_return_sequences": 1,
}  # fmt: skip
"""Settings of a model's generation_config that change how answers are computed or returned, not which they are: callers have their own."""
FOREIGN = ("guidance_scale", "penalty_alpha", "dola_layers", "num_beam_groups", "constraints", "force_words_ids")
"""Searches that read the whole text again, or need code from elsewhere."""


def generate(
    model: Any, ids: Tensor, cache: Any, mask: Tensor, max_new_tokens: int, options: Mapping[str, Any] | None = None
) -> Tensor:
    """Continue rows whose tokens are all in the cache, by the model's own `generate`. Its logits processors (repetition penalty and
    the like) see a row's own tokens and what was written behind them, as they would without a prompt and without padding.

    Args:
        ids: (batch, tokens): the own tokens at the end of the cache; the last column is computed once more, the rest is not.
        cache: of batch rows, holding prefix, slots and `ids`, or all of that but the last token. It stays as it is.
        mask: (batch, prefix + slots + tokens).
        options: of `GenerationConfig`, such as num_beams, do_sample, num_return_sequences, eos_token_id.

    Returns:
        (batch * num_return_sequences, at most max_new_tokens) new tokens; shorter rows end in `pad_token_id`.
    """
    if cache.get_seq_length() == mask.shape[1]:
        cache = cropped(cache, 1)
    front = mask.shape[1] - ids.shape[1]
    filled = torch.cat([ids.new_zeros(len(ids), front), ids], 1)
    starts = [front + start for start in _starts(mask[:, front:])]
    given: dict[str, Any] = {"input_ids": filled, "attention_mask": mask}
    if accepts(model, "position_ids") and first_position(model):
        given["position_ids"] = packed_positions(mask) + first_position(model)
    with searching(model, max_new_tokens, options or {}, starts, filled) as copies:
        result: Tensor = model.generate(past_key_values=repeat(cache, copies), **given)
    return result[:, mask.shape[1] :]


def generate_from(
    model: Any, ids: Tensor, front: Tensor, max_new_tokens: int, options: Mapping[str, Any] | None = None,
    slots: tuple[int, SlotFn] | None = None,
) -> Tensor:  # fmt: skip
    """The same for a model whose cache cannot be handed in: everything runs from vectors.

    Args:
        ids: (batch, tokens), without padding.
        front: (batch, prompt, dim) vectors in front of them.
        slots: vectors that every block has in front of all that, for any number of copies of the rows.
    """
    given: dict[str, Any] = {"input_ids": ids}
    own = slots is not None or "inputs_embeds" not in inspect.signature(model.prepare_inputs_for_generation).parameters
    if not own:
        embeds = torch.cat([front, embed(model, ids)], 1)
        mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=ids.device)
        given |= {"inputs_embeds": embeds, "attention_mask": mask}
        if accepts(model, "position_ids") and first_position(model):
            given["position_ids"] = packed_positions(mask) + first_position(model)
    with (
        searching(
            model, max_new_tokens, {**(options or {}), **({"use_cache": False} if own else {})}, [0] * len(ids), ids
        ),
        whole_texts(model, front, slots if own else None) if own else nullcontext(),
    ):
        result: Tensor = model.generate(**given)
    return result[:, ids.shape[1] :]


@contextmanager
def whole_texts(model: Any, front: Tensor, slots: tuple[int, SlotFn] | None) -> Iterator[None]:
    """Inside, every step of `model.generate` runs slots, the vectors in front, and all that was written."""
    if slots is not None:
        front = torch.cat([front.new_zeros(len(front), slots[0], front.shape[2]), front], 1)

    def inputs(input_ids: Tensor, **more: Any) -> dict[str, Any]:
        copies = len(input_ids) // len(front)
        embeds = torch.cat([front.repeat_interleave(copies, 0), embed(model, input_ids)], 1)
        mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        return {"inputs_embeds": embeds, "attention_mask": mask, **shown(model, packed_positions(mask), 1, False)}

    model.prepare_inputs_for_generation = inputs
    try:
        with slotted(model, slots):
            yield
    finally:
        del model.prepare_inputs_for_generation


def _starts(mask: Tensor) -> list[int]:
    """Columns of padding in front of every row."""
    found: list[int] = (mask.long().cumsum(1) == 0).sum(1).tolist()
    return found


@contextmanager
def searching(
    model: Any, max_new_tokens: int, options: Mapping[str, Any], starts: Sequence[int], ids: Tensor,
    read: tuple[Tensor, Tensor] | None = None,
) -> Iterator[int]:  # fmt: skip
    """Inside, `model.generate` searches as its generation_config and `options` say, and its logits processors see row r of `ids` from
    starts[r] on. Gives how often every row runs at the same time.

    Args:
        read: (ids, mask) of the texts that an encoder reads, padded on the left; without an encoder the text is in `ids`.

    Raises:
        UserError: the model's generation_config asks for a search that cannot run behind a prompt.
    """
    before = model.generation_config
    config = copy.deepcopy(before)
    for name, value in WITHOUT.items():
        if hasattr(config, name):
            setattr(config, name, value)
    for name in FOREIGN:
        if getattr(config, name, None) not in (None, 1, 1.0, [], False) and name not in options:
            raise UserError(
                f"the generation_config of {type(model).__name__} has {name}={getattr(config, name)!r}: such a search cannot run behind a "
                "prompt; remove it from generation_config.json"
            )
    for name, value in {"pad_token_id": 0, "max_new_tokens": max_new_tokens, "max_length": None, **options}.items():
        setattr(config, name, value)
    model.generation_config = config
    make = model._get_logits_processor
    model._get_logits_processor = lambda **more: _Own(make, more, config, starts, ids, read)
    try:
        yield max(int(config.num_beams or 1), int(config.num_return_sequences or 1))
    finally:
        model.generation_config = before
        del model._get_logits_processor


class _Own:
    """The model's logits processors, made once for all rows that begin in the same column; each sees its rows from there on."""

    def __init__(
        self, make: Callable[..., Any], more: Mapping[str, Any], asked: Any, starts: Sequence[int], ids: Tensor,
        read: tuple[Tensor, Tensor] | None,
    ) -> None:  # fmt: skip
        self.rows, self.groups = len(starts), []
        # The library tells padding by the mask; here it is gone already.
        kept = {name: value for name, value in (more.get("model_kwargs") or {}).items() if "attention_mask" not in name}
        more = {**more, "model_kwargs": kept}
        pads = starts if read is None else _starts(read[1])
        for start, pad in sorted(set(zip(starts, pads, strict=True))):
            chosen = [row for row, own in enumerate(zip(starts, pads, strict=True)) if own == (start, pad)]
            text = ids[chosen, start:] if read is None else read[0][chosen, pad:]
            length, config = ids.shape[1] - start, copy.copy(more["generation_config"])
            # The library counts fillers among the tokens of a text.
            config.max_length = length + asked.max_new_tokens
            config.min_length = asked.min_length if asked.min_new_tokens is None else length + asked.min_new_tokens
            given = {**more, "generation_config": config, "input_ids_seq_length": length, "encoder_input_ids": text}
            self.groups.append((torch.tensor(chosen, device=ids.device), start, make(**given)))

    def __call__(self, input_ids: Tensor, scores: Tensor, **more: Any) -> Tensor:
        found = scores.clone()
        times = len(scores) // self.rows
        for rows, start, processors in self.groups:
            chosen = (rows[:, None] * times + torch.arange(times, device=rows.device)).flatten()
            found[chosen] = processors(input_ids[chosen, start:], scores[chosen], **more)
        return found

    def __iter__(self) -> Iterator[Any]:
        return (one for _, _, processors in self.groups for one in processors)

    def __len__(self) -> int:
        return max(len(processors) for _, _, processors in self.groups)
