"""A method on an encoder of one's own: in a bare loop, in HF Trainer, in Lightning Fabric; saving, copies, precisions; tsai's networks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pt_timeseries
import pytest
import torch
from pt_core.errors import BackboneMismatch, ConfigError, DataError, UserError
from pt_timeseries.adapters.encoder import PatchEncoder
from torch import Tensor, nn
from torch.nn import functional as F

from tests.loops import Named, by_fabric, by_trainer
from tests.timeseries.common import LABELS, close, tiny, waves

DATA = waves(["a"], per_class=16)
X, Y = DATA.values, torch.tensor(DATA.labels)


def network() -> PatchEncoder:
    return tiny().module


def wrapped(method: str = "common_prompt", **options: Any) -> Any:
    return pt_timeseries.wrap(network(), method, classes=LABELS, **{"prompt_length": 8, **options})


def accuracy(module: nn.Module) -> float:
    with torch.no_grad():
        return float((module.eval()(X).argmax(-1) == Y).float().mean())


def frozen(module: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.method.backbone.module.state_dict().items()}


def check_frozen(module: Any, before: dict[str, Tensor]) -> None:
    assert all(torch.equal(tensor, before[name]) for name, tensor in frozen(module).items())


def test_a_bare_loop_trains_what_is_tuned_and_nothing_else(tmp_path: Path) -> None:
    module = wrapped()
    before, start = frozen(module), accuracy(module)
    names = {"common.series", "common.codes", "head.weight", "head.bias"}
    assert {name.removeprefix("method.") for name in module.state_dict()} == names
    optimiser = torch.optim.Adam(module.parameters(), lr=0.03)
    module.train()
    assert not module.method.backbone.module.training
    for _ in range(80):
        optimiser.zero_grad()
        F.cross_entropy(module(X), Y).backward()
        optimiser.step()
    assert accuracy(module) > max(0.8, start)
    check_frozen(module, before)
    module.save(tmp_path / "tuned", {"accuracy": accuracy(module)})
    predictor = pt_timeseries.load(tmp_path / "tuned", backbone=network(), device="cpu")
    with torch.no_grad():
        assert torch.equal(predictor.module().eval()(X), module.eval()(X))
    assert [row["predicted"] for row in predictor.predict(list(X[:5]))] == [LABELS[i] for i in module(X[:5]).argmax(-1)]
    with pytest.raises(BackboneMismatch, match="was tuned on 'module:PatchEncoder'"):
        pt_timeseries.load(tmp_path / "tuned", backbone=tiny(5).module)
    with pytest.raises(UserError, match="tuned on a PatchEncoder of your own: pass that network as backbone="):
        pt_timeseries.load(tmp_path / "tuned")


def test_hf_trainer_trains_it(tmp_path: Path) -> None:
    module = wrapped()
    before, start = frozen(module), accuracy(module)
    by_trainer(Named(module), {"inputs": X, "labels": Y}, tmp_path, 120, 16)
    assert accuracy(module) > max(0.8, start)
    check_frozen(module, before)


def test_lightning_fabric_trains_it() -> None:
    module = wrapped()
    before, start = frozen(module), accuracy(module)
    by_fabric(module, lambda prepared: F.cross_entropy(prepared(X), Y), 60, 0.03)
    assert accuracy(module) > max(0.8, start)
    check_frozen(module, before)


def test_copies_share_the_frozen_encoder() -> None:
    module = wrapped()
    other = copy.deepcopy(module)
    assert other.method.backbone is module.method.backbone
    with torch.no_grad():
        assert torch.equal(other(X), module(X))
        other.method.common.series.add_(1)
        assert not torch.equal(other(X), module(X))


@pytest.mark.parametrize("method", ["common_prompt", "source_only"])
def test_it_moves_as_one(method: str) -> None:
    def make() -> Any:
        return wrapped() if method == "common_prompt" else pt_timeseries.wrap(network(), method, classes=3)

    want = make()(X)
    double = make().double()
    assert {p.dtype for p in [*double.parameters(), *double.method.backbone.module.parameters()]} == {torch.float64}
    close(double(X.double()).float(), want, 1e-4)
    low = make().bfloat16()(X.bfloat16())
    assert low.dtype == torch.bfloat16
    close(low.float(), want, 0.2)
    assert {p.device.type for p in make().to("meta").method.backbone.module.parameters()} == {"meta"}


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="no adapter for a Linear; it takes tsai's TST, PatchTST and InceptionTime"):
        pt_timeseries.wrap(nn.Linear(2, 2), "common_prompt", classes=2)
    with pytest.raises(DataError, match="reads 2 channels, the series have 3"):
        wrapped()(torch.zeros(2, 3, 32))
    for method, roles in (("pond", "unlabeled"), ("coral", "unlabeled"), ("codats", "unlabeled"), ("full", "shots")):
        with pytest.raises(UserError, match=f"needs the data roles {roles} besides 'train'; train it with `fit`"):
            pt_timeseries.wrap(network(), method, classes=2)


# ---- tsai ------------------------------------------------------------------------------------------------------------------


def of_tsai(name: str) -> nn.Module:
    """A network as a user of tsai builds it, its classifier included."""
    from tsai.models.InceptionTime import InceptionTime
    from tsai.models.PatchTST import PatchTST
    from tsai.models.TST import TST

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"n_layers": 2, "d_model": 12, "n_heads": 2, "d_ff": 16}
    built: nn.Module = {
        "TST": lambda: TST(2, 3, 32, **sizes),
        "TST strided": lambda: TST(2, 3, 32, kernel_size=8, stride=4, **sizes),
        "TST shortened": lambda: TST(2, 3, 32, max_seq_len=16, **sizes),
        "PatchTST": lambda: PatchTST(2, 3, 32, patch_len=8, stride=4, **sizes),
        "PatchTST plain": lambda: PatchTST(2, 3, 30, patch_len=8, stride=4, revin=False, res_attention=False, **sizes),
        "InceptionTime": lambda: InceptionTime(2, 3, nf=3),
    }[name]()
    for part in built.modules():
        if isinstance(part, nn.BatchNorm1d):
            nn.init.normal_(part.running_mean, std=0.3)
    return built.eval()


def own_features(name: str, net: Any, x: Tensor) -> Tensor:
    """(batch, token, dim) as tsai computes them in front of its classifier."""
    if name == "InceptionTime":
        return net.inceptionblock(x).transpose(1, 2)
    found: list[Tensor] = []
    where = net.head if name.startswith("TST") else net.model.head
    hook = where.register_forward_pre_hook(lambda module, given: found.append(given[0]))
    net(x)
    hook.remove()
    return found[0].transpose(1, 2) if name.startswith("TST") else found[0].mean(1).transpose(1, 2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["TST", "TST strided", "TST shortened", "PatchTST", "PatchTST plain", "InceptionTime"])
def test_tsais_networks_are_wrapped_as_they_are(name: str, tmp_path: Path) -> None:
    net = of_tsai(name)
    x = X[:6, :, :30] if name == "PatchTST plain" else X[:6]
    module = pt_timeseries.wrap(net, "common_prompt", classes=2, prompt_length=8)
    with torch.no_grad():
        close(module.method.backbone(x).tokens, own_features(name, net, x))
    assert module(x).shape == (6, 2)
    module(x).sum().backward()
    assert bool(module.method.common.series.grad.any())
    module.save(tmp_path / "tuned")
    predictor = pt_timeseries.load(tmp_path / "tuned", backbone=of_tsai(name), device="cpu")
    with torch.no_grad():
        assert torch.equal(predictor.module().eval()(x), module.eval()(x))
    assert len(predictor.predict(list(x))) == 6
    if module.method.backbone.stride > 1:
        with pytest.raises(ConfigError, match="prompt_length=9 is no multiple of the backbone's stride"):
            pt_timeseries.wrap(net, "common_prompt", classes=2, prompt_length=9)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_networks_of_tsais_without_a_place_for_prompts() -> None:
    from pt_core.backbone import Insert
    from tsai.models.PatchTST import PatchTST
    from tsai.models.TST import TST
    from tsai.models.XceptionTime import XceptionTime

    for net, message in (
        (TST(2, 3, 32, n_heads=2, d_model=12, kernel_size=8, stride=4, padding=2), "padded or dilated"),
        (PatchTST(2, 3, 32, n_heads=2, d_model=12, patch_len=8, stride=4, decomposition=True), "gives two encoders"),
        (XceptionTime(2, 3), "no adapter for a XceptionTime"),
    ):
        with pytest.raises(UserError, match=message):
            pt_timeseries.wrap(net, "common_prompt", classes=2)
    backbone = pt_timeseries.wrap(of_tsai("PatchTST"), "source_only", classes=2).method.backbone
    with pytest.raises(UserError, match="tokens enter at tokens\\[0\\] and stay"):
        backbone(X[:3], {"tokens[1]": Insert(torch.zeros(2, 12))})
