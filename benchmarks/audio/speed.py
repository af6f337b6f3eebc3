"""What caching and sharing save, and how long a step waits for data, on spoken digits.

    python -m benchmarks.audio.speed --data DIR

- `epoch`: stage-2 steps over 64 clips with the frozen encoder run in every step, against steps over its cached outputs (built-in encoder;
  and a random ViT-B/16, the size of the published encoder, on 2 clips). Losses of both agree.
- `shared`: a batch of 8 episodes with one support set, its beginning run once or with every row.
- `waiting`: share of the time of an epoch that is spent waiting for the next batch: audio read and turned into features in 0 or 1 worker
  processes, and with cached encoder outputs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from pt_audio.adapters.encoders import AudioMAEEncoder
from pt_audio.adapters.logmel import LogMel
from pt_audio.adapters.vit import AudioViT, ViTSizes
from pt_audio.backbones import load_backbone
from pt_audio.data.load import load_audio
from pt_audio.methods.acoustic_apt import AcousticAPT, AcousticAPTConfig
from pt_audio.options import DataOptions
from pt_audio.tasks.answers import Answers
from pt_core import Stream
from pt_core.kernels import reference_kernels
from pt_core.run.data.streams import Shard, StreamReader

from benchmarks import _harness
from benchmarks.audio.sets import write

BATCH, CLIPS = 16, 64


def setting(folder: Path, encoder: Any, clips: int, **options: Any) -> tuple[AcousticAPT, Any]:
    """A method on the given encoder, and its training records."""
    part = load_audio(str(folder), DataOptions(limit=clips, **options), 0)["train"]
    backbones = {
        "encoder": encoder,
        "text": load_backbone("builtin:bert_sounds", None, "text"),
        "lm": load_backbone("builtin:lm_sounds", None, "lm"),
    }
    torch.manual_seed(0)
    method = AcousticAPT(AcousticAPTConfig(dropout=0.0), backbones, Answers(part.tags))
    return method, part.bind(encoder, backbones["text"], backbones["lm"], part.tags, None)  # type: ignore[arg-type]


def step(method: AcousticAPT, batch: Any) -> torch.Tensor:
    output = method.training_step(batch)
    output.loss.backward()
    method.zero_grad()
    return output.loss.detach()


def filled(method: AcousticAPT, data: Any) -> Any:
    """The records over encoder outputs."""
    segments = data.frozen_parts()
    used = sorted({place for record in data.records for clip in record.clips for place in data.segments_of[clip]})
    features: torch.Tensor | None = None
    for start in range(0, len(used), BATCH):
        rows = used[start : start + BATCH]
        batch = segments.collate(rows, [segments.sample(row, epoch=None, seed=0) for row in rows])
        with torch.no_grad():
            block = method.frozen_part(batch)
        if features is None:
            features = torch.zeros(len(segments), *block.shape[1:])
        features[rows] = block
    return data.with_frozen(features)


def epoch(method: AcousticAPT, data: Any, clips: int) -> list[torch.Tensor]:
    losses = []
    for start in range(0, clips, BATCH):
        rows = list(range(start, min(start + BATCH, clips)))
        losses.append(step(method, data.collate(rows, [data.sample(row, epoch=None, seed=0) for row in rows])))
    return losses


def epochs(folder: Path, name: str, encoder: Any, clips: int, rounds: int) -> dict[str, Any]:
    method, data = setting(folder, encoder, clips)
    cached = filled(method, data)
    plain, fast = epoch(method, data, clips), epoch(method, cached, clips)
    contenders = {
        "encoder in every step": lambda: epoch(method, data, clips),
        "cached": lambda: epoch(method, cached, clips),
    }
    times = _harness.alternate(contenders, rounds, warmup=0)
    return {
        "what": "epoch",
        "encoder": name,
        "clips": clips,
        "ratio": round(times.ratio("encoder in every step", "cached"), 2),
        "spread": round(times.spread("encoder in every step", "cached"), 2) if rounds > 1 else None,
        "max_relative_difference": _harness.difference(torch.stack(fast), torch.stack(plain)),
    }


def shared(folder: Path, rounds: int) -> dict[str, Any]:
    method, data = setting(folder, load_backbone("builtin:mae_sounds"), 64, tasks=("few_shot",))
    cached = filled(method, data)
    base = cached.base.records[0]
    from dataclasses import replace

    records = [replace(base, clips=(*base.clips[:-1], other.clips[-1])) for other in cached.base.records[:8]]
    same = cached.__class__(
        replace(cached.base, records=records),
        method.encoder,
        method.text,
        method.lm,
        cached.tags,
        None,
        cached.features,
    )
    batch = same.collate(list(range(8)), [{}] * 8)

    def plain() -> torch.Tensor:
        with reference_kernels():
            return step(method, batch)

    once, every = step(method, batch), plain()
    times = _harness.alternate({"every row": plain, "once": lambda: step(method, batch)}, rounds)
    return {
        "what": "shared",
        "rows": 8,
        "ratio": round(times.ratio("every row", "once"), 2),
        "spread": round(times.spread("every row", "once"), 2),
        "max_relative_difference": _harness.difference(once, every),
    }


def waiting(folder: Path, workers: int, cached: bool) -> dict[str, Any]:
    method, data = setting(folder, load_backbone("builtin:mae_sounds"), CLIPS)
    if cached:
        data = filled(method, data)
    reader = StreamReader("train", Stream("train"), data, BATCH, 0, Shard(), workers)
    reader.start(0)
    waited = total = 0.0
    for number in range(3 * CLIPS // BATCH):
        begin = time.perf_counter()
        (batch,) = reader.next()
        got = time.perf_counter()
        step(method, batch)
        if number >= 2:  # behind the start of the workers
            waited, total = waited + got - begin, total + time.perf_counter() - begin
    reader.close()
    return {"what": "waiting", "workers": workers, "cached": cached, "share": round(waited / total, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = write("spoken_digits", arguments.data, Path(name))
        rows = [epochs(folder, "builtin:mae_sounds", load_backbone("builtin:mae_sounds"), CLIPS, arguments.rounds)]
        big = AudioMAEEncoder(AudioViT(ViTSizes()), LogMel(), "random ViT-B/16")
        rows.append(epochs(folder, "a random ViT-B/16 (86 M)", big, 2, 1))
        rows.append(shared(folder, arguments.rounds))
        rows += [waiting(folder, workers, cached) for workers, cached in ((0, False), (1, False), (0, True))]
    for row in rows:
        print(row, flush=True)
    _harness.write("audio_speed", {"batch": BATCH, **_harness.machine()}, rows)


if __name__ == "__main__":
    main()
