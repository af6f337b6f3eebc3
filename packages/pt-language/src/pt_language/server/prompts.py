"""`PromptServer`: hundreds of tuned prompts over one frozen causal language model, mixed freely in one batch.

A prompt's keys and values are computed once, at its first request, and kept (up to `cache_bytes`, least recently used ones go first), so
later requests run their own tokens only. Rows of several prompts run together: their prefixes are stacked, shorter ones padded on the left
behind a mask, and positions count real tokens only, so that a row's result does not depend on its neighbours.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from pt_core import Batch
from pt_core.errors import UserError, nearest
from pt_core.run.use.predict import load
from torch import Tensor

from pt_language.adapters.decoder import DecoderBackbone
from pt_language.backbones import load_backbone
from pt_language.data.chats import prompt_text
from pt_language.data.templates import Encoder
from pt_language.data.tokens import opened, pad
from pt_language.method import LanguageMethod
from pt_language.server.decoding import Rows
from pt_language.server.prefixes import Prefixes
from pt_language.server.request import Completion, Request
from pt_language.server.tenant import Limits, Tenant, TooLong, UnknownPrompt
from pt_language.text import Text

SHOWN = 20
"""Known prompts that an error lists."""


class PromptServer:
    """Completions of texts behind tuned prompts.

    server = PromptServer(backbone)
    server.add("reviews", "runs/reviews")
    server.complete(["a fine film"], ["reviews"])

    Methods that change the backbone's weights (lora, full) cannot share a batch and are refused. One thread at a time runs the model.
    """

    def __init__(self, backbone: Any, limits: Limits | None = None) -> None:
        """
        Args:
            backbone: a causal language model: an adapter, or a spec such as `builtin:NAME` or `local:FOLDER`.

        Raises:
            UserError: not a causal model, or one that keeps no keys and values.
        """
        if isinstance(backbone, str):
            backbone = load_backbone(backbone)
        if not isinstance(backbone, DecoderBackbone):
            raise UserError(
                f"a prompt server needs a causal language model; {backbone.source!r} is of kind {backbone.kind}"
            )
        self.backbone, self.limits = backbone, limits or Limits()
        self.batch = backbone.together(self.limits.batch)
        """Rows that run together; one where padding would reach the results of the network."""
        sizes = backbone.sizes
        # A sliding window would drop keys, and padded positions would count: texts that fit in it are exact.
        bounds = [size for size in (sizes.context, sizes.window) if size is not None]
        self.context = min(bounds) if bounds else None
        self.encoder = Encoder(backbone.tokenizer)
        self.begin = backbone.around(self.encoder.around)[0]
        self.lock = threading.RLock()
        """Held while the model runs, and while the set of prompts changes."""
        self._tenants: dict[str, Tenant] = {}
        self.prefixes = Prefixes(backbone, self.limits.cache_bytes, lambda one: self._tenants.get(one.name) is one)

    @property
    def prefills(self) -> int:
        """Times a prompt's keys and values were computed."""
        return self.prefixes.computed

    # ---- the prompts ---------------------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        return sorted(self._tenants)

    def __len__(self) -> int:
        return len(self._tenants)

    def add(self, name: str, run: str | Path | LanguageMethod) -> Tenant:
        """Load a prompt under an id, or replace the one of that id; requests that already run keep the old one.

        Args:
            run: a run folder, its `tuned/`, or a tuned method over this server's backbone object.

        Raises:
            UserError: it cannot be loaded, belongs to another backbone, cannot be served, or there are too many.
        """
        if isinstance(run, LanguageMethod):
            method = run
        else:
            predictor = load(Text(), Path(run), backbone=self.backbone, device=str(self.backbone.device))
            method = cast("LanguageMethod", predictor.method)
        if method.backbone is not self.backbone:
            raise UserError(f"prompt {name!r} was built on another backbone object than the server's")
        if method.weights is not None or method.network is not self.backbone:
            raise UserError(
                f"prompt {name!r} ({type(method).__name__}) changes the backbone's weights: it cannot share a batch with others"
            )
        method.eval()
        tenant = Tenant(name, method, method.front())
        if self.context is not None and tenant.length >= self.context:
            raise UserError(f"prompt {name!r} has {tenant.length} tokens, the context window has {self.context}")
        with self.lock:
            if name not in self._tenants and len(self._tenants) >= self.limits.prompts:
                raise UserError(f"{len(self._tenants)} prompts are loaded, the limit; remove one first")
            self.prefixes.forget(self._tenants.get(name))
            self._tenants[name] = tenant
        return tenant

    def remove(self, name: str) -> None:
        """Unload a prompt; requests that already run finish.

        Raises:
            UnknownPrompt: there is none of that id.
        """
        with self.lock:
            self.prefixes.forget(self.tenant(name))
            del self._tenants[name]

    def tenant(self, name: str | None) -> Tenant | None:
        """The prompt of an id; None is the bare backbone.

        Raises:
            UnknownPrompt: names the known ones.
        """
        if name is None:
            return None
        found = self._tenants.get(name)
        if found is None:
            known = self.names
            more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
            listed = ", ".join(known[:SHOWN]) + more if known else "none"
            raise UnknownPrompt(f"unknown prompt {name[:80]!r}{nearest(name, known)}; loaded: {listed}")
        return found

    def named(self, model: str | None) -> str | None:
        """The prompt that a client's `model` means: an id, or the backbone's own name for the bare model.

        Raises:
            UnknownPrompt: neither; names the known ones.
        """
        if model is None or (model == self.backbone.source and model not in self._tenants):
            return None
        self.tenant(model)
        return model

    # ---- completions ---------------------------------------------------------------------------------------------------------

    def request(
        self, text: str | Sequence[int] | Mapping[str, str], prompt: str | None = None, max_new_tokens: int | None = 16,
        **options: Any
    ) -> Request:  # fmt: skip
        """A checked request.

        Args:
            text: text or token ids as they follow the prompt, or a mapping of columns for the prompt's own template.
            prompt: id of a loaded prompt; None for the bare backbone.
            max_new_tokens: 0 only where the text's own tokens are scored; None: as many as the limits and the context window allow.
            options: further fields of `Request` (temperature, top_p, seed, stop, logprobs, score_text).

        Raises:
            UnknownPrompt, TooLong, UserError: as they say; nothing has run then.
        """
        tenant = self.tenant(prompt)
        ids = self._ids(text, tenant)
        front = tenant.length if tenant is not None else 0
        if max_new_tokens is None:
            room = self.limits.tokens if self.context is None else self.context - front - len(ids)
            max_new_tokens = max(1, min(self.limits.tokens, room))
        if not (0 if options.get("score_text") else 1) <= max_new_tokens <= self.limits.tokens:
            raise TooLong(f"max_tokens is {max_new_tokens}; this server gives 1 to {self.limits.tokens}")
        if self.context is not None and front + len(ids) + max_new_tokens > self.context:
            raise TooLong(
                f"prompt of {front} tokens, text of {len(ids)} and {max_new_tokens} new tokens exceed the context window of {self.context}"
            )
        return Request(tenant, tuple(ids), max_new_tokens, **options)

    def _ids(self, text: str | Sequence[int] | Mapping[str, str], tenant: Tenant | None) -> list[int]:
        begin = self.begin if tenant is None else tenant.method.begin
        if isinstance(text, str):
            ids = opened(begin, self.encoder.encode(text, 0).ids)
        elif isinstance(text, Mapping):
            if tenant is None:
                raise UserError("columns need a prompt with a template; give text, or name a prompt")
            template = tenant.method.text_task.template
            template.check_columns(list(text), f"the input for prompt {tenant.name!r}", answer=False)
            ids = opened(begin, self.encoder.source(template, text).ids)
        else:
            ids = list(text)
            if not all(
                isinstance(i, int) and not isinstance(i, bool) and 0 <= i < len(self.backbone.embeddings) for i in ids
            ):
                raise UserError(f"token ids must be whole numbers from 0 to {len(self.backbone.embeddings) - 1}")
        if not ids:
            raise UserError("the text has zero tokens")
        return ids

    def chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation up to where the assistant's turn begins, by the tokenizer's own template.

        Raises:
            UserError: it has none, or does not take these messages.
        """
        tokenizer = self.backbone.tokenizer
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(f"{self.backbone.source!r} has no chat template; send text to /v1/completions")
        text = prompt_text(tokenizer, messages)
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def shown(self, request: Request) -> str:
        """The text of a request, without the special tokens that the server put in front."""
        begin = self.begin if request.tenant is None else request.tenant.method.begin
        ids = request.ids[len(begin) :] if begin and request.ids[: len(begin)] == begin else request.ids
        text: str = self.backbone.tokenizer.decode(list(ids))
        return text

    def complete(
        self, texts: Sequence[str | Sequence[int] | Mapping[str, str]], prompts: Sequence[str | None], max_new_tokens: int = 16,
        **options: Any,
    ) -> list[Completion]:  # fmt: skip
        """One completion per text, each behind its own prompt; rows with different prompts share batches.

        Raises:
            UserError: another number of prompts than texts, or as `request` says.
        """
        if len(texts) != len(prompts):
            raise UserError(
                f"{len(prompts)} prompts for {len(texts)} texts; give one per text (None for the bare model)"
            )
        requests = [self.request(t, p, max_new_tokens, **options) for t, p in zip(texts, prompts, strict=True)]
        waiting, rows = list(requests), Rows(self.backbone)
        while waiting or len(rows):
            if waiting and len(rows) < self.batch:
                count = self.batch - len(rows)
                self.admit(rows, waiting[:count])
                waiting = waiting[count:]
            self.step(rows)
        return [request.completion(self.backbone.tokenizer) for request in requests]

    @torch.no_grad()
    def admit(self, rows: Rows, requests: Sequence[Request]) -> None:
        """Read the texts of new requests and add them to running rows, with their first new token."""
        with self.lock:
            fixed = [r for r in requests if r.tenant is None or r.tenant.method.static]
            groups: dict[int, list[Request]] = {}
            for request in requests:
                if request.tenant is not None and not request.tenant.method.static:
                    groups.setdefault(id(request.tenant), []).append(request)
            for chosen in [fixed, *groups.values()]:
                if chosen:
                    logits, cache, mask = self.prefill(chosen)
                    for request, own in zip(chosen, logits, strict=True):
                        if request.score_text:
                            request.read(own)
                    rows.add(chosen, logits[:, -1].float(), cache, mask)

    @torch.no_grad()
    def step(self, rows: Rows) -> None:
        """One more token for every running row."""
        with self.lock:
            rows.step()

    @torch.no_grad()
    def prefill(self, requests: Sequence[Request]) -> tuple[Tensor, Any, Tensor]:
        """(logits (rows, 1 or tokens, vocabulary), cache, mask) of texts behind their prompts, in one forward; those of all tokens only
        where a request's own text is scored.

        Requests of one prompt that depends on the text must come alone.
        """
        ids, mask = (t.to(self.backbone.device) for t in pad([request.ids for request in requests], left=True))
        inputs: dict[str, Any] = {"ids": ids, "mask": mask, "roles": torch.full_like(ids, 2)}
        keep = ids.shape[1] if any(request.score_text for request in requests) else 1
        first = requests[0].tenant
        if first is not None and not first.method.static:
            batch = Batch(inputs, None, torch.arange(len(ids)), [f"request {n}" for n in range(len(ids))])
            edits = first.method.edits(batch)
            extra = self.backbone.prefill(inputs, edits, keep=keep).extra
        else:
            prefix = self.prefixes.of([r.tenant for r in requests])
            extra = self.backbone.prefill(inputs, prefix=prefix, keep=keep).extra
        return extra["logits"], extra["cache"], extra["mask"]
