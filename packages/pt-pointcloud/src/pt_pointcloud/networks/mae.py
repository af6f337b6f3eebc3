"""Point-MAE: masked autoencoding of patches (Pang et al., ECCV 2022, arXiv 2203.06604), the pretraining of the backbones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pt_pointcloud.networks.grouping import group
from pt_pointcloud.networks.transformer import Blocks, PointConfig, PointTransformer, init_weights, position_mlp


def chamfer_l2(a: Tensor, b: Tensor) -> Tensor:
    """(batch, n, 3), (batch, m, 3) -> scalar: mean squared distance to the nearest point, both ways, summed."""
    square = (a[:, :, None] - b[:, None]).square().sum(-1)
    return square.amin(2).mean() + square.amin(1).mean()


class PointMAE(nn.Module):
    """Visible patches through the encoder, mask tokens beside them through the decoder, the masked patches' points out.

    Args:
        config: the backbone.
        decoder_depth: blocks of the decoder, as wide as the encoder.
        mask_ratio: r; int(r G) patches are masked at random.

    The encoder `net` is what is kept; its class token is not used.
    """

    def __init__(self, config: PointConfig, decoder_depth: int = 4, mask_ratio: float = 0.6) -> None:
        super().__init__()
        self.config, self.masked = config, int(mask_ratio * config.groups)
        if not 0 < self.masked < config.groups:
            raise ValueError(
                f"mask_ratio={mask_ratio} masks {self.masked} of {config.groups} patches; both kinds are needed"
            )
        self.net = PointTransformer(config)
        init_weights(self.net)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.decoder_pos_embed = position_mlp(config.position, config.dim)
        self.decoder = Blocks(config.dim, config.heads, decoder_depth, config.drop_path)
        for part in self.decoder.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        self.decoder_norm = nn.LayerNorm(config.dim)
        self.increase_dim = nn.Conv1d(config.dim, 3 * config.group_size, 1)

    def forward(self, points: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, N, 3) -> loss, the masked patches (batch, masked, M, 3) as predicted, and as they are.

        `rng` draws the masks, on the CPU.
        """
        config = self.config
        centres, patches = group(points, config.groups, config.group_size)
        order = torch.rand(len(points), config.groups, generator=rng).argsort(1).to(points.device)
        hidden, seen = order[:, : self.masked], order[:, self.masked :]

        def pick(values: Tensor, rows: Tensor) -> Tensor:
            return values[torch.arange(len(values), device=values.device)[:, None], rows]

        # All patches are embedded, as published: the masked ones take part in the BatchNorm statistics.
        tokens = pick(self.net.embed(patches), seen)
        encoded = self.net.norm(self.net.blocks(tokens, self.net.pos_embed(pick(centres, seen))))
        both = torch.cat([encoded, self.mask_token.expand(len(points), self.masked, -1)], 1)
        positions = self.decoder_pos_embed(torch.cat([pick(centres, seen), pick(centres, hidden)], 1))
        decoded = self.decoder_norm(self.decoder(both, positions)[:, -self.masked :])
        predicted = self.increase_dim(decoded.transpose(1, 2)).transpose(1, 2).unflatten(-1, (-1, 3))
        target = pick(patches, hidden)
        return chamfer_l2(predicted.flatten(0, 1), target.flatten(0, 1)), predicted, target
