"""timm's Eva (EVA, EVA-02, DINOv3 ...) behind the Backbone contract: always by concatenation.

Blocks rotate queries and keys of the tokens behind the prefix by their position. Prompts have no position, so their
rows of the rotary table are the identity (sine 0, cosine 1); so are those of prefix tokens that a prompt at the front
pushes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pt_vision.adapters.vit import VitBackbone


class EvaBackbone(VitBackbone):
    """A timm `Eva`. Sites: `pixels`, `input`, `tokens[l]`, `features`."""

    def _positions(self, x: Tensor) -> tuple[Tensor, Any]:
        hidden, rope = self.module._pos_embed(x)
        return self.module.norm_pre(hidden), rope

    def _whole(self, layer: int, hidden: Tensor, rope: Any) -> Tensor:
        if rope is not None:
            table = rope[layer] if self.module.rope_mixed else rope  # (..., tokens, sines and cosines)
            added = hidden.shape[1] - self.num_prefix - table.shape[-2]
            if added:
                sine, cosine = table.new_zeros(*table.shape[:-2], added, table.shape[-1]).chunk(2, -1)
                table = torch.cat([torch.cat([sine, cosine + 1], -1), table], -2)
        else:
            table = None
        out: Tensor = self.module.blocks[layer](hidden, rope=table)
        return out

    @staticmethod
    def _known_blocks(blocks: Sequence[nn.Module]) -> bool:
        return False

    def _pools_prefix(self) -> bool:
        return self._attention_pool() is not None
