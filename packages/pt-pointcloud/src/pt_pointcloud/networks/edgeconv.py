"""EdgeConv (DGCNN, Wang et al. 2019, arXiv 1801.07829) without a tensor per edge.

The edge feature of token i and neighbour j is [u_j - u_i, u_i], its 1x1 convolution W = [A, B]:

    e_ij = A (u_j - u_i) + B u_i = P_j + Q_i        with P = A (u - c), Q = B u - P

(that is A u_j + (B - A) u_i; any c cancels, and the mean token of the cloud keeps rounding as small as that of the differences), so the
products are per token, not per edge. BatchNorm over all edges, e -> a e + b with a = gamma / sigma, and LeakyReLU are monotone
per channel, so the maximum over the neighbours is taken before them: over P_j, or the minimum where gamma < 0. The statistics need no
edges either. With n_j = number of edges that end in j, K = B G k edges, and S_i = sum of P_j over the neighbours of i (a product with the
adjacency matrix):

    mean = (sum_j n_j P_j) / K + mean_i Q_i
    var  = (sum_j n_j p_j^2) / K + mean_i q_i^2 + 2 (sum_i q_i s_i) / K        p, q centred, s the sums of centred p

Values and gradients are those of the edge tensor to rounding; `reference_kernels()` builds it.
"""

from __future__ import annotations

import warnings

import torch
from pt_core.kernels import fast_paths_enabled
from torch import Tensor, nn
from torch.nn import functional as F

from pt_pointcloud.networks.head import Norm
from pt_pointcloud.ops import neighbour_extreme

SLOPE = 0.2


def feature_neighbours(u: Tensor, k: int) -> Tensor:
    """(batch, token, dim) -> (batch, token, k): the k tokens nearest in feature space, itself included, by squared Euclidean distance."""
    with torch.no_grad():
        u = u - u.mean(1, keepdim=True)  # distances stay, rounding errors shrink
        square = u.square().sum(-1)
        distance = square[:, :, None] - 2 * u @ u.transpose(1, 2) + square[:, None]
        return distance.topk(k, -1, largest=False).indices


class EdgeConv(nn.Module):
    """u_i' = max_j LeakyReLU(BN(W [u_j - u_i, u_i])) over the k nearest tokens j in feature space.

    forward: (batch, token, dim) -> (batch, token, dim). k is clamped to the number of tokens, with a warning.

    Parameters: 2 C C + 2 C.
    """

    def __init__(self, dim: int, k: int = 20) -> None:
        super().__init__()
        self.k = k
        self.conv = nn.Linear(2 * dim, dim, bias=False)
        self.norm = Norm(dim)

    def forward(self, u: Tensor) -> Tensor:
        count = u.shape[1]
        if count < self.k:
            warnings.warn(
                f"k={self.k} neighbours among {count} tokens: k is clamped to {count}", UserWarning, stacklevel=2
            )
        idx = feature_neighbours(u, min(self.k, count))
        return self.rewritten(u, idx) if fast_paths_enabled() else self.edges(u, idx)

    def edges(self, u: Tensor, idx: Tensor) -> Tensor:
        """The published order of operations, with the edge tensor (batch, token, k, 2 dim)."""
        batch, count, dim = u.shape
        rows = idx.flatten(1)[..., None].expand(-1, -1, dim)
        neighbours = u.gather(1, rows).view(batch, count, -1, dim)
        centre = u[:, :, None].expand_as(neighbours)
        edge = self.norm(self.conv(torch.cat([neighbours - centre, centre], -1)))
        return F.leaky_relu(edge, SLOPE).amax(2)

    def rewritten(self, u: Tensor, idx: Tensor) -> Tensor:
        """The same without edges."""
        a, b = self.conv.weight.chunk(2, 1)
        p = F.linear(u - u.mean(1, keepdim=True).detach(), a)
        q = F.linear(u, b) - p
        if self.training:
            # Statistics are sums over many edges: in float32 whatever the products were computed in.
            wide = torch.promote_types(p.dtype, torch.float32)
            mean, var = self._statistics(p.to(wide), q.to(wide), idx)
        else:
            assert self.norm.running_mean is not None
            assert self.norm.running_var is not None
            mean, var = self.norm.running_mean, self.norm.running_var
        best = neighbour_extreme(p, idx, self.norm.weight.detach() >= 0) + q
        scale = self.norm.weight * torch.rsqrt(var + self.norm.eps)
        return F.leaky_relu((best - mean) * scale + self.norm.bias, SLOPE).to(u.dtype)

    def _statistics(self, p: Tensor, q: Tensor, idx: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance (dim,) over all edges; updates the running ones as BatchNorm does."""
        batch, count, k = idx.shape
        total = batch * count * k
        with torch.autocast(p.device.type, enabled=False):
            with torch.no_grad():
                adjacency = torch.zeros(batch, count, count, device=p.device, dtype=p.dtype).scatter_(2, idx, 1.0)
                into = adjacency.sum(1)[..., None]
            mean_p, mean_q = (into * p).sum((0, 1)) / total, q.mean((0, 1))
            p, q = p - mean_p, q - mean_q
            cross = (q * (adjacency @ p)).sum((0, 1)) / total
            var = (into * p.square()).sum((0, 1)) / total + q.square().mean((0, 1)) + 2 * cross
        mean = mean_p + mean_q
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.momentum is not None
        with torch.no_grad():
            norm.running_mean.lerp_(mean.to(norm.running_mean), norm.momentum)
            norm.running_var.lerp_((var * (total / (total - 1))).to(norm.running_var), norm.momentum)
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
        return mean, var
