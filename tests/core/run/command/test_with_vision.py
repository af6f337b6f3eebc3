"""What needs a real backbone: pt-vision's VPT on the built-in data, one short run for all tests."""

import json
import socket

import pt_vision
import pytest
import torch
from pt_core import reference_kernels
from pt_core.run.command import cli
from pt_vision.modality import Vision

from tests.golden.make import inputs_of

OPTIONS = {"data": "builtin:digits", "shots": 2, "batch_size": 10, "epochs": 1, "device": "cpu", "quiet": True}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Fitted with every way to the network closed."""

    def closed(*_, **__):
        raise AssertionError("the network was asked")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("socket", "create_connection", "getaddrinfo"):
            patch.setattr(socket, name, closed)
        return pt_vision.fit("vpt", out=tmp_path_factory.mktemp("vision") / "run", **OPTIONS)


@pytest.fixture(scope="module")
def predictor(run):
    return pt_vision.load(run, device="cpu")


def batch_of(predictor):
    method, pictures = predictor.method, inputs_of("vision-vpt")
    dataset = predictor.modality.inputs(pictures, method, None)
    rows = list(range(len(pictures)))
    return dataset.collate(rows, [dataset.sample(row, epoch=None, seed=0) for row in rows])


def test_run_needs_no_network(run):
    assert run.info["status"] == "finished"
    assert run.info["results"]["test"]["accuracy"] > 0.05
    assert (run.path / "report.html").is_file()


def test_bf16_forward_is_near_and_the_prompt_stays_fp32(predictor):
    batch = batch_of(predictor)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = predictor.method(batch)
    with torch.no_grad():
        full = predictor.method(batch)
    assert float((low - full).abs().max()) <= 0.1 * float(full.abs().max())
    assert not torch.equal(low.float(), full), "autocast was on"
    assert {tensor.dtype for tensor in predictor.method.parameters()} == {torch.float32}


@pytest.mark.slow
def test_compiled_forward_has_equal_outputs_and_gradients(predictor):
    method, batch = predictor.method, batch_of(predictor)
    compiled = torch.compile(
        lambda inputs: method(type(batch)(inputs, None, batch.index, batch.ids)), backend="aot_eager"
    )
    parameters = [p for p in method.parameters() if p.requires_grad]
    found = []
    for call in (method, lambda batch: compiled(batch.inputs)):
        out = call(batch)
        found.append([out.detach(), *torch.autograd.grad(out.square().sum(), parameters)])
    for plain, other in zip(*found, strict=True):
        assert float((plain - other).abs().max()) <= 1e-5 * float(plain.abs().max())


def test_reference_kernels_agree(predictor):
    batch = batch_of(predictor)
    with torch.no_grad():
        fast = predictor.method(batch)
        with reference_kernels():
            slow = predictor.method(batch)
    assert float((fast - slow).abs().max()) <= 1e-5 * float(slow.abs().max())


@pytest.mark.slow
def test_exported_program_equals_the_method(run, predictor, tmp_path):
    with pytest.raises(SystemExit) as stop:
        cli.main(Vision, ["export", str(run.path), "--format", "torch.export", "--out", str(tmp_path / "p.pt2")])
    assert stop.value.code == 0
    batch, program = batch_of(predictor), torch.export.load(tmp_path / "p.pt2").module()
    with torch.no_grad():
        expected, found = predictor.method(batch), program(batch.inputs)
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_eval_and_info_as_json(run, capsys):
    for arguments in (["eval", str(run.path), "--data", "builtin:digits", "--json"], ["info", str(run.path), "--json"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(Vision, arguments)
        assert stop.value.code == 0
    evaluated, info = map(json.loads, capsys.readouterr().out.splitlines())
    assert evaluated["metrics"]["accuracy"] == pytest.approx(run.metrics["accuracy"], abs=0.003)
    assert info["card"]["method"] == "pt-vision/vpt"
