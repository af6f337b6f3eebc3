"""A network of the user's own as a backbone."""

from __future__ import annotations

from pt_core.errors import UserError
from torch import nn

from pt_timeseries.adapters.base import SeriesBackbone
from pt_timeseries.adapters.encoder import PatchEncoder
from pt_timeseries.adapters.patch import PatchBackbone


def adapt(module: nn.Module, source: str) -> SeriesBackbone:
    """The backbone around a module; it is used as it is, frozen and in eval mode. A classifier inside it is not used.

    Raises:
        UserError: a kind of network without an adapter.
    """
    if isinstance(module, PatchEncoder):
        return PatchBackbone(module, source)
    found = None
    if any(base.__module__.startswith("tsai.") for base in type(module).__mro__):
        # Imported only for a network of tsai's: it takes seconds.
        from pt_timeseries.adapters.tsai import adapt_tsai

        found = adapt_tsai(module, source)
    if found is None:
        raise UserError(
            f"pt-timeseries has no adapter for a {type(module).__name__}; it takes tsai's TST, PatchTST and InceptionTime, and its own "
            "PatchEncoder"
        )
    return found
