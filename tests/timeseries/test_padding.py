"""Series that end before others of their batch give what they give alone: nothing behind an end is read, by any method."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pt_core import Batch
from pt_core.errors import DataError
from pt_timeseries.adapters.base import check_data
from pt_timeseries.methods.codats import Codats
from pt_timeseries.methods.common_prompt import CommonPrompt
from pt_timeseries.methods.coral import DeepCoral
from pt_timeseries.methods.pond import POND
from pt_timeseries.methods.source_only import SourceOnly
from pt_timeseries.pretrain import pretrain
from torch import Tensor

from tests.timeseries.common import DATA, LENGTH, batch_of, close, make, moved, seeded_make, tiny, waves
from tests.timeseries.test_pretrain import QUICK

ENDS = (32, 9, 17, 32, 5, 24)
SMALL = {"prompt_length": 8, "hidden": 6, "critic_dim": 5}
METHODS = [
    (POND, SMALL),
    (POND, {**SMALL, "pool": "data"}),
    (CommonPrompt, {"prompt_length": 8}),
    (SourceOnly, {}),
    (DeepCoral, {}),
    (Codats, {}),
]


def cut(dataset, fill: float = torch.nan):
    """Windows of the lengths ENDS, in turn."""
    values = dataset.values.clone()
    for row in range(len(values)):
        values[row, :, ENDS[row % len(ENDS)] :] = fill
    return replace(dataset, values=values, unequal="pad")


def alone(batch: Batch, row: int) -> Batch:
    return replace(
        batch,
        inputs=batch.inputs[row : row + 1, :, : ENDS[row % len(ENDS)]],
        target=batch.target[row : row + 1],
        index=batch.index[row : row + 1],
        ids=batch.ids[row : row + 1],
        extra={name: value[row : row + 1] for name, value in batch.extra.items()},
    )


@pytest.mark.parametrize("experts", [0, 3])
@pytest.mark.parametrize(("cls", "options"), METHODS)
def test_logits_and_gradients_are_those_of_the_series_alone(cls, options, experts):
    backbone, plain = tiny(experts=experts), tiny(experts=experts)
    data = cut(DATA["val"])
    check_data(backbone, data)
    assert backbone.padded
    batch = batch_of(data)
    method = moved(seeded_make(cls, backbone=backbone, **options)).eval()
    single = seeded_make(cls, backbone=plain, **options).eval()
    single.load_state_dict(method.state_dict())
    logits = method(batch)
    want = torch.cat([single(alone(batch, row)) for row in range(len(batch))])
    close(logits, want, 1e-4)
    whole = batch_of(DATA["val"])
    assert (single(whole) - want).abs().max() > 1e-2  # what was cut off mattered
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    (logits * weights).sum().backward()
    (want * weights).sum().backward()
    for (name, have), (_, other) in zip(method.named_parameters(), single.named_parameters(), strict=True):
        assert (have.grad is None) == (other.grad is None), name
        if have.grad is not None:
            close(have.grad, other.grad, 2e-4)


def test_whole_series_give_what_they_gave_without_a_mask():
    backbone, plain = tiny(), tiny()
    check_data(backbone, cut(DATA["val"]))
    inputs = DATA["val"].values
    close(backbone.pool(backbone(inputs)), plain.pool(plain(inputs)))
    close(backbone(inputs[:, :, :20]).tokens, plain(inputs[:, :, :20]).tokens)


def test_other_networks_say_that_they_have_no_mask():
    backbone = tiny()
    backbone.masks = False
    with pytest.raises(DataError, match="has no mask for series that end before others; say --unequal crop"):
        check_data(backbone, cut(DATA["val"]))
    short = replace(DATA["val"], values=DATA["val"].values[:, :, :16], unequal="pad")
    check_data(tiny(), short)  # all of one length, and shorter than the network's
    with pytest.raises(DataError, match="the windows have 2 x 16"):
        check_data(tiny(), replace(short, unequal="error"))


def test_pond_says_what_is_too_short_for_its_generators():
    data = cut(DATA["val"])
    values = data.values.clone()
    values[0, :, 3:] = torch.nan
    backbone = tiny()
    check_data(backbone, data)
    batch = batch_of(replace(data, values=values))
    with pytest.raises(DataError, match="a series of 3 steps is too short for a prompt generator; it reads 5 or more"):
        make(POND, backbone=backbone, **SMALL)(batch)


def test_an_encoder_is_trained_on_what_is_there(monkeypatch):
    """What stands behind the ends before they are masked changes nothing: not in the losses, not in the weights."""
    train = cut(waves(per_class=4))
    first = pretrain(replace(QUICK, epochs=1, masked_epochs=1), train, cut(waves(seed=1)), progress=False)
    assert np.isfinite(first.train_loss)
    assert first.val_macro_f1 is not None
    from pt_timeseries.adapters import patch as module

    ends_of, extended = module.ends_of, module.extended
    noise: list[Tensor] = []

    def noisy(series: Tensor, ends: Tensor) -> Tensor:
        """Patches that start behind the end hold something else."""
        out = extended(series, ends).clone()
        last = (ends.div(4, rounding_mode="floor").clamp(max=7) * 4 + 8)[
            :, None
        ]  # the last patch that reads the series
        behind = torch.arange(out.shape[-1]) >= last
        noise.append(behind.sum())
        return out + 100 * behind[:, None]

    backbone, plain = tiny(), tiny()
    for one in (backbone, plain):
        check_data(one, train)
    want = plain.pool(plain(train.values))
    monkeypatch.setattr(module, "extended", noisy)
    close(backbone.pool(backbone(train.values)), want)
    assert sum(int(count) for count in noise) > 0
    assert ends_of(train.values).tolist()[:6] == list(ENDS)
    assert LENGTH == 32
