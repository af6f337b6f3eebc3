"""Keys and values of prompts: computed once, kept for later requests, and stacked for rows of several prompts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from pt_core import Batch, KeyValue
from pt_core.bridges import transformers as bridge
from pt_core.errors import UserError
from torch import Tensor

from pt_language.adapters.base import Prefix
from pt_language.adapters.decoder import DecoderBackbone
from pt_language.server.caches import stack
from pt_language.server.tenant import Tenant


class Prefixes:
    """The prompts' keys and values; least recently used ones go first where they take more than `limit` bytes.

    Args:
        loaded: whether a prompt is still loaded; others are computed, and not kept.

    Attributes:
        computed: times a prompt's keys and values were computed.
    """

    def __init__(self, backbone: DecoderBackbone, limit: int, loaded: Callable[[Tenant], bool]) -> None:
        self.backbone, self.limit, self.loaded = backbone, limit, loaded
        self.computed = 0
        self._known: OrderedDict[int, tuple[Tenant, list[tuple[Tensor, Tensor]]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def forget(self, tenant: Tenant | None) -> None:
        if tenant is not None:
            self._known.pop(id(tenant), None)

    def of(self, tenants: Sequence[Tenant | None]) -> Prefix | None:
        """The prompts of several rows as one prefix: shared where all are the same, else one per row, padded on the left."""
        distinct = {id(tenant): tenant for tenant in tenants}
        pairs = {key: self._keys_and_values(t) for key, t in distinct.items() if t is not None and t.length}
        longest = max((found[0][0].shape[2] for found in pairs.values()), default=0)
        if not longest:
            return None
        if len(distinct) == 1:
            return Prefix(bridge.cache_of(self.backbone.module, next(iter(pairs.values()))))
        order = list(distinct)
        index = torch.tensor([order.index(id(tenant)) for tenant in tenants], device=self.backbone.device)
        lengths = torch.tensor(
            [pairs[key][0][0].shape[2] if key in pairs else 0 for key in order], device=self.backbone.device
        )
        real = (torch.arange(longest, device=index.device) >= longest - lengths[:, None]).long()
        stacked = [
            tuple(
                stack([pairs[k][layer][part] if k in pairs else None for k in order], longest)[index] for part in (0, 1)
            )
            for layer in range(len(self.backbone.pairs or ()))
        ]
        return Prefix(bridge.cache_of(self.backbone.module, cast("Any", stacked)), real[index])

    def _keys_and_values(self, tenant: Tenant) -> list[tuple[Tensor, Tensor]]:
        """(1, kv_heads, L, head_dim) per block, computed at the first call."""
        known = self._known.get(id(tenant))
        if known is None:
            self.computed += 1
            known = (tenant, self._compute(tenant))
            if not self.loaded(tenant):
                return known[1]  # removed while its last requests were waiting: not kept
            self._known[id(tenant)] = known
            sizes = {key: sum(k.nbytes + v.nbytes for k, v in found) for key, (_, found) in self._known.items()}
            while len(self._known) > 1 and sum(sizes[key] for key in self._known) > self.limit:
                self._known.popitem(last=False)
        self._known.move_to_end(id(tenant))
        return known[1]

    def _compute(self, tenant: Tenant) -> list[tuple[Tensor, Tensor]]:
        batch = Batch({}, None, torch.zeros(0, dtype=torch.long), [])
        own = tenant.method.prefix(batch)
        if own is not None:
            pairs = bridge.pairs_of(own.cache)
        else:
            edits = self.backbone.lower(tenant.method.edits(batch))
            found = [edits.get(f"kv[{layer}]") for layer in range(len(self.backbone.pairs or ()))]
            pairs = [
                (e.k.to(self.backbone.dtype), e.v.to(self.backbone.dtype)) for e in found if isinstance(e, KeyValue)
            ]
            pairs = pairs if len(pairs) == len(self.backbone.pairs or ()) else None
        if pairs is None:
            raise UserError(f"backbone {self.backbone.source!r} keeps no keys and values that prompts could share")
        return [(k.detach(), v.detach()) for k, v in pairs]
