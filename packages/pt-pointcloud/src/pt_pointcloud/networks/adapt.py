"""A network of the user's own as a backbone."""

from __future__ import annotations

from pt_core.errors import UserError
from torch import nn

from pt_pointcloud.networks.backbone import PointBackbone
from pt_pointcloud.networks.mae import PointMAE
from pt_pointcloud.networks.transformer import PointTransformer


def adapt(module: nn.Module, source: str) -> PointBackbone:
    """The backbone around a module; it is used as it is, frozen and in eval mode.

    Raises:
        UserError: a kind of network without an adapter.
    """
    net = module.net if isinstance(module, PointMAE) else module
    if not isinstance(net, PointTransformer):
        raise UserError(
            f"pt-pointcloud has no adapter for a {type(module).__name__}; it takes its own PointTransformer and PointMAE. Weights of the "
            "published Point-MAE and Point-BERT code are read from a file: pointmae:NAME or pointbert:NAME with weights"
        )
    return PointBackbone(net, source)
