"""Pictures of the report: spectrograms, and where in time the queries look."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor

STRETCHES = 32
"""Columns of the attention panel."""


def spectrogram_png(spectrogram: Tensor, width: int = 240, height: int = 96) -> bytes:
    """(T, F) log-mel features as a PNG, low frequencies at the bottom."""
    from matplotlib import colormaps
    from PIL import Image

    values = spectrogram.float().T.flip(0).numpy()
    low, high = np.percentile(values, 2), np.percentile(values, 99.5)
    shown = colormaps["magma"](np.clip((values - low) / max(high - low, 1e-6), 0, 1))[..., :3]
    picture = Image.fromarray((shown * 255).astype(np.uint8)).resize((width, height), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def thumbnail(dataset: Any, index: int) -> bytes | None:
    """The first clip of a record: its first segment, without the padding behind it."""
    from pt_audio.adapters.logmel import LogMel

    base = getattr(dataset, "base", dataset)
    place = dataset.indices[index] if hasattr(dataset, "indices") else index
    records = getattr(base, "base", base)
    clip = records.clips[records.records[place].clips[0]]
    wave = clip.read(LogMel.rate)
    return spectrogram_png(LogMel(bins=64).spectrogram(wave)[: LogMel.frames])


@torch.no_grad()
def query_attention(method: Any, batch: Any) -> Tensor:
    """(queries, time): attention of the first record's first segment, mean over heads and cross-attention layers, summed over frequency."""
    element = batch.inputs.rows[0].elements[0]
    vectors = method.vectors(batch.inputs)[element.segments[0] : element.segments[0] + 1]
    aligner = method.aligner
    ids = torch.tensor([list(element.asked)], device=vectors.device) if method.instructed else None
    maps = aligner.qformer.attention_maps(aligner.queries, aligner.ln_audio(vectors), ids, None)
    mean = torch.stack([found.mean(1)[0] for found in maps]).mean(0)
    times, bins = method.encoder.grid
    over_time = mean.view(-1, times, bins).sum(2)
    return torch.nn.functional.adaptive_avg_pool1d(over_time[None], min(STRETCHES, times))[0]
