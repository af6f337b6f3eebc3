"""Fields that options of several packages have: sizes of a Transformer, and how it is trained. Bounds and help are in the type:

    depth: Depth = 4

A tighter bound is `Annotated[Depth, Ge(2)]`; a docstring below the field replaces the help.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Lt

Width = Annotated[int, Ge(1), "Width d."]
Depth = Annotated[int, Ge(1), "Blocks."]
Heads = Annotated[int, Ge(1), "Attention heads."]
Steps = Annotated[int, Ge(1), "Optimiser steps."]
PeakRate = Annotated[float, Gt(0), "Peak learning rate of AdamW."]
WeightDecay = Annotated[float, Ge(0), "Weight decay."]
Warmup = Annotated[float, Ge(0), Lt(1), "Share of the steps in which the learning rate rises."]
Seed = Annotated[int, Ge(0), "Seed."]
