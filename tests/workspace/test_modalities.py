"""Every package keeps to the convention of `pt_core.run.declare.package.Package`, or says otherwise in its modality."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys

import pytest
import torch
from pt_core.errors import ArtifactError
from pt_core.run.declare.package import Package

MODALITIES = {
    "pt_vision": ("Vision", ("digits", "coda", "masks")),
    "pt_language": ("Language", ("words",)),
    "pt_graph": ("Graph", ("molecules",)),
    "pt_audio": ("Audio", ("sounds",)),
    "pt_timeseries": ("TimeSeries", ("motion",)),
    "pt_pointcloud": ("PointClouds", ("shapes", "parts")),
}


@pytest.fixture(params=MODALITIES)
def modality(request: pytest.FixtureRequest) -> Package:
    name = MODALITIES[request.param][0]
    found: Package = getattr(importlib.import_module(f"{request.param}.modality"), name)()
    return found


def test_methods_lie_in_the_package(modality: Package) -> None:
    assert modality.package == modality.registry.package.replace("_", "-")
    assert {info.module.partition(".")[0] for info in modality.registry.infos().values() if info.module} == {
        modality.registry.package
    }
    assert modality.version() == importlib.import_module(modality.registry.package).__version__


def test_default_backbones_are_built_in(modality: Package) -> None:
    listed = {spec.rpartition("=")[2] for spec, _ in modality.backbones()}
    for info in modality.registry.infos().values():
        for role in info.backbones:
            spec = modality.default_backbone(role)
            assert spec in listed
            assert modality.backbone_problem(spec, role) is None
            assert "nowhere" in (modality.backbone_problem("builtin:nowhere", role) or "")


def test_built_in_networks_in_bf16_show_their_behaviour_in_float32(modality: Package) -> None:
    roles = {role for info in modality.registry.infos().values() for role in info.backbones}
    for role in sorted(roles):
        spec = modality.default_backbone(role)
        plain = modality.load_backbone(spec, None, None, role).fingerprint()
        narrow = [modality.load_backbone(spec, None, None, role).to("cpu", torch.bfloat16) for _ in range(2)]
        seen = narrow[0].fingerprint()
        assert (seen.dtype, seen.probed) == ("bfloat16", "float32")
        assert seen.compare(narrow[1].fingerprint()) == "same"
        assert seen.compare(plain) == "recast"
        assert {tensor.dtype for tensor in narrow[0].module.parameters()} == {torch.bfloat16}


def test_a_name_behind_which_there_are_no_data(modality: Package) -> None:
    assert "no built-in data" in (modality.data_problem("builtin:nowhere") or "")
    assert "does not exist" in (modality.data_problem("nowhere.csv") or "").replace("do not exist", "does not exist")


def test_every_task_option_is_a_kind_that_cards_know_or_chooses_one(modality: Package) -> None:
    names = [kind.name for kind in modality.task_kinds()]
    assert len(set(names)) == len(names)
    with pytest.raises(ArtifactError, match=f"unknown to this {modality.package}; known: {', '.join(names)}"):
        modality.task_from_json({"name": ["nothing"]})


def test_demos(modality: Package) -> None:
    assert tuple(demo.name for demo in modality.demos()) == MODALITIES[modality.registry.package][1]
    assert all(demo.summary and callable(demo.run) for demo in modality.demos())


@pytest.mark.parametrize(("package", "name"), [(package, name) for package, (name, _) in MODALITIES.items()])
def test_what_the_help_reads_imports_no_torch(package: str, name: str) -> None:
    read = (
        f"import sys; from {package}.modality import {name}; one = {name}()\n"
        "print(one.data_options.__name__, one.task_options.__name__, one.pretrain_options().__name__, [d.name for d in one.demos()])\n"
        "one.data_problem('no.csv'); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("DataOptions TaskOptions PretrainOptions")


def test_what_a_package_lacks_is_none() -> None:
    from pt_vision.modality import Vision

    assert Vision().predict_options is None
    assert Vision.predict_options is None


def test_a_modality_of_a_users_own_keeps_the_methods_of_the_one_it_extends() -> None:
    from pt_vision.modality import Vision

    class Mine(Vision):
        """Further commands, say."""

    assert Mine.registry is Vision.registry
    assert dataclasses.is_dataclass(Mine().data_options)
