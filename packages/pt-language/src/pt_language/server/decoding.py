"""Rows that decode together: new ones join and finished ones leave between any two steps (continuous batching).

All rows share one cache, padded on the left; a row's positions count its real tokens, so its tokens do not depend on who else is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pt_core.bridges import transformers as bridge
from torch import Tensor

from pt_language.adapters.decoder import DecoderBackbone
from pt_language.server.caches import chosen, merged
from pt_language.server.request import Request


class Rows:
    """Requests that decode together.

    Attributes:
        requests: one per row of the cache.
        forwards: model calls of `step`.
    """

    def __init__(self, backbone: DecoderBackbone) -> None:
        self.backbone = backbone
        self.requests: list[Request] = []
        self.forwards = 0
        self._cache: Any = None
        self._mask = torch.zeros(0, 0, dtype=torch.long)

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def end(self) -> int | None:
        found = self.backbone.tokenizer.eos_token_id
        return found if found is not None else self.backbone.tokenizer.sep_token_id

    def add(self, requests: Sequence[Request], logits: Tensor, cache: Any, mask: Tensor) -> None:
        """Take in rows whose text was read: next-token logits (rows, vocabulary), their cache and its mask."""
        self._choose(requests, logits)
        going = [row for row, request in enumerate(requests) if request.reason is None]
        if not going:
            return
        cache, mask = chosen(self.backbone.module, cache, mask, going)
        if self.requests:
            cache, mask = merged(self.backbone.module, (self._cache, self._mask), (cache, mask))
        self._cache, self._mask = cache, mask
        self.requests += [requests[row] for row in going]

    def step(self) -> None:
        """Drop cancelled rows, then give every other one its next token; finished ones leave."""
        self._keep([row for row, request in enumerate(self.requests) if not request.cancelled])
        if not self.requests:
            return
        last = torch.tensor([[request.tokens[-1]] for request in self.requests], device=self.backbone.device)
        logits, self._cache, self._mask = bridge.step(self.backbone.module, last, self._cache, self._mask)
        self.forwards += 1
        self._choose(self.requests, logits[:, -1].float())
        self._keep([row for row, request in enumerate(self.requests) if request.reason is None])

    def clear(self) -> list[Request]:
        """Drop everything; returns what ran."""
        found, self.requests = self.requests, []
        self._cache, self._mask = None, torch.zeros(0, 0, dtype=torch.long)
        return found

    def _choose(self, requests: Sequence[Request], logits: Tensor) -> None:
        likeliest = logits.argmax(-1).tolist()
        for row, request in enumerate(requests):
            token = likeliest[row] if request.temperature == 0 else request.choose(logits[row])
            request.take(token, self.end, self.backbone.tokenizer, logits[row])

    def _keep(self, rows: Sequence[int]) -> None:
        if len(rows) == len(self.requests):
            return
        if not rows:
            self.clear()
            return
        self._cache, self._mask = chosen(self.backbone.module, self._cache, self._mask, rows)
        self.requests = [self.requests[row] for row in rows]
