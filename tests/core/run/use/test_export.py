"""An exported program gives the method's own outputs, for any batch size, and needs nothing of pt to run."""

import sys

import pytest
import torch
from pt_core.data import Batch
from pt_core.errors import MissingExtra, UserError
from pt_core.run.use.export import export_program, trace
from pt_core.run.use.predict import Predictor
from pt_core.testing.tiny import TinyBackbone, ToyTask

from tests.core.run.train.test_trainer import build
from tests.core.toys import TOYS


class Toys:
    """The little that export asks of a modality."""

    package = "pt-toy"

    def blank_inputs(self, backbone, batch_size):
        return torch.zeros(batch_size, backbone.count)


def predictor(kind="supervised"):
    return Predictor(Toys(), build(kind), {"method": f"pt-toy/{kind}"}, [], "cpu")


def inputs(rows):
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(0))


def outputs(method, values):
    rows = len(values)
    with torch.no_grad():
        return method(Batch(values, None, torch.arange(rows), [str(i) for i in range(rows)]))


@pytest.mark.parametrize("kind", ["supervised", "chain", "actor"])
def test_program_equals_the_method_at_any_batch_size(kind, tmp_path):
    tuned = predictor(kind)
    assert export_program(tuned.modality, tuned, tmp_path / "p.pt2", "torch.export") == []
    program = torch.export.load(tmp_path / "p.pt2").module()
    for rows in (1, 2, 7):
        torch.testing.assert_close(program(inputs(rows)), outputs(tuned.method, inputs(rows)), rtol=1e-5, atol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == ["p.pt2"]


def test_method_is_left_as_it_was(tmp_path):
    tuned = predictor()
    before = outputs(tuned.method, inputs(3))
    flags = [p.requires_grad for p in tuned.method.parameters()]
    export_program(tuned.modality, tuned, tmp_path / "p.pt2", "torch.export")
    assert torch.equal(outputs(tuned.method, inputs(3)), before)
    assert [p.requires_grad for p in tuned.method.parameters()] == flags


def test_program_needs_nothing_but_torch_to_run(tmp_path):
    tuned = predictor()
    export_program(tuned.modality, tuned, tmp_path / "p.pt2", "torch.export")
    nodes = torch.export.load(tmp_path / "p.pt2").graph.nodes
    names = {str(node.target).split(".")[0] for node in nodes if node.op == "call_function"}
    assert names <= {"aten", "<built-in function getitem>"}


def test_method_that_fixes_the_batch_is_exported_for_one_input(tmp_path):
    class Fixed(TOYS["supervised"]):
        def logits(self, values):
            return torch.stack([super(Fixed, self).logits(row[None])[0] for row in values])

    method = Fixed(None, {"backbone": TinyBackbone()}, ToyTask())
    tuned = Predictor(Toys(), method, {"method": "pt-toy/fixed"}, [], "cpu")
    (note,) = export_program(tuned.modality, tuned, tmp_path / "p.pt2", "torch.export")
    assert "one input at a time" in note
    program = torch.export.load(tmp_path / "p.pt2").module()
    torch.testing.assert_close(program(inputs(1)), outputs(method, inputs(1)))


def test_method_that_cannot_be_traced_is_refused_and_nothing_is_left(tmp_path):
    class Branching(torch.nn.Module):
        def forward(self, inputs):
            return inputs if inputs.sum() > 0 else -inputs

    with pytest.raises(UserError, match="cannot be traced"):
        trace(Branching(), inputs(2))


@pytest.mark.parametrize(
    ("kind", "name", "format_", "message"),
    [
        ("testtime", "p.pt2", "torch.export", "pt-toy/testtime predicts in steps of its own"),
        ("supervised", "p.onnx", "torch.export", "must end in .pt2"),
        ("supervised", "p.pt2", "onnx", "must end in .onnx"),
        ("supervised", "p.pt2", "torchscript", "unknown export format"),
    ],
)
def test_what_cannot_be_exported_is_refused(kind, name, format_, message, tmp_path):
    tuned = predictor(kind)
    with pytest.raises(UserError, match=message):
        export_program(tuned.modality, tuned, tmp_path / name, format_)
    assert list(tmp_path.iterdir()) == []


def test_onnx_without_its_libraries_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    tuned = predictor()
    with pytest.raises(MissingExtra, match=r"pip install 'pt-toy\[onnx\]'"):
        export_program(tuned.modality, tuned, tmp_path / "p.onnx", "onnx")


def test_onnx_equals_the_method_at_any_batch_size(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    tuned = predictor()
    assert export_program(tuned.modality, tuned, tmp_path / "p.onnx", "onnx") == []
    session = runtime.InferenceSession(str(tmp_path / "p.onnx"), providers=["CPUExecutionProvider"])
    for rows in (1, 5):
        (found,) = session.run(["output"], {"inputs": inputs(rows).numpy()})
        torch.testing.assert_close(torch.from_numpy(found), outputs(tuned.method, inputs(rows)), rtol=1e-4, atol=1e-5)
