"""A modality of small vectors: the shared commands end to end, without a package. `python -m tests.core.run.toy fit prompt ...`."""

import csv
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch
from annotated_types import Ge, Lt
from pt_core.data import Batch, generator
from pt_core.errors import ArtifactError, DataError
from pt_core.run.command import cli
from pt_core.run.declare.modality import Modality
from pt_core.run.declare.options import ClassificationOptions
from pt_core.run.declare.registry import Registry
from pt_core.run.tasks.classification import Classification
from pt_core.task import Evaluator, Task
from pt_core.testing.tiny import TinyBackbone, TinyNet, Vectors

from tests.core.duals import tiny_dual

CLASSES = ("ant", "bee", "cat")
EYE = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)
"""PNG of one pixel."""


@dataclass(frozen=True)
class DataOptions:
    val_fraction: Annotated[float, Ge(0), Lt(1)] = 0.25
    """Share split off for validation."""
    test_fraction: Annotated[float, Ge(0), Lt(1)] = 0.25
    """Share split off for the test."""
    group_column: str | None = None
    """Column of the table whose groups stay together."""


@dataclass(frozen=True)
class TaskOptions(ClassificationOptions):
    task: Literal["classification", "denoise"] = "classification"
    """What is predicted."""


class ByRole:
    """A dataset whose samples are a mapping by backbone role, made from one draw of noise."""

    augmented = True

    def __init__(self, base, training):
        self.base, self.training, self.ids, self.labels = base, training, base.ids, base.labels

    def __len__(self):
        return len(self.ids)

    def sample(self, index, *, epoch, seed):
        values = self.base.sample(index, epoch=epoch, seed=seed)
        if self.training and epoch is not None:
            values = values + 0.1 * torch.randn(len(values), generator=generator(seed, epoch, index))
        return {"fine": values, "coarse": values.view(2, 2).mean(1)}

    def collate(self, index, samples):
        batch = self.base.collate(index, [sample["fine"] for sample in samples])
        return replace(batch, inputs={role: torch.stack([s[role] for s in samples]) for role in ("fine", "coarse")})

    def identity(self):
        return self.base.identity()


class Denoise(Task):
    """A task without classes: a vector comes out, as a file per sample; no metric selects."""

    name = "denoise"
    select = None
    outputs = 4

    def loss(self, output, batch):
        return (output - batch.inputs).square().mean(), len(batch)

    def predict(self, output):
        return {"values": output}

    def evaluator(self):
        return Error()

    def records(self, predictions, batch):
        sizes = predictions["values"].norm(dim=-1).tolist()
        return [{"id": name, "size": size} for name, size in zip(batch.ids, sizes, strict=True)]

    def files(self, predictions, batch):
        return [{"values.csv": ",".join(f"{v:.6g}" for v in row).encode()} for row in predictions["values"].tolist()]

    def to_json(self):
        return {}


class Error(Evaluator):
    def __init__(self):
        self.total, self.count = 0.0, 0

    def update(self, predictions, batch):
        self.total += float((predictions["values"] - batch.inputs).square().mean(-1).sum())
        self.count += len(batch)

    def compute(self):
        return {"mse": self.total / self.count}


class Rows:
    """Vectors with names, class names and (where there are some) groups."""

    def __init__(self, values, labels, ids, classes=CLASSES, groups=None):
        self.values, self.ids, self.classes, self.groups = values, list(ids), list(classes), groups
        self.labels = None if labels is None else list(labels)

    def __len__(self):
        return len(self.ids)

    def sample(self, index, *, epoch, seed):
        return self.values[index]

    def collate(self, index, samples):
        target = None if self.labels is None else torch.tensor([self.labels[i] for i in index])
        return Batch(torch.stack(list(samples)), target, torch.tensor(index), [self.ids[i] for i in index])

    def identity(self):
        return hashlib.sha256(self.values.numpy().tobytes() + repr(self.labels).encode()).hexdigest()

    def digests(self):
        return [hashlib.sha256(row.numpy().tobytes()).hexdigest() for row in self.values]

    def relabel(self, names):
        unknown = sorted(set(self.classes) - set(names))
        if unknown:
            raise DataError(f"class {unknown[0]!r} of the data is not one of the task's: {', '.join(names)}")
        place = [list(names).index(name) for name in self.classes]
        return Rows(self.values, [place[label] for label in self.labels], self.ids, names, self.groups)


def vectors(size, seed=1):
    made = Vectors(size, seed=seed)
    return Rows(made.values, made.labels, made.ids)


def read_table(path, group_column=None):
    """A CSV with the columns id, label, x0 .. x3."""
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    values = torch.tensor([[float(line[f"x{i}"]) for i in range(4)] for line in lines])
    classes = sorted({line["label"] for line in lines})
    groups = None if group_column is None else [line[group_column] for line in lines]
    labels = [classes.index(line["label"]) for line in lines]
    return Rows(values, labels, [line["id"] for line in lines], classes, groups)


def write_table(path, rows, **columns):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", *(f"x{i}" for i in range(4)), *columns])
        for i, name in enumerate(rows.ids):
            line = [name, rows.classes[rows.labels[i]], *rows.values[i].tolist()]
            writer.writerow([*line, *(values[i] for values in columns.values())])


class Toy(Modality):
    package = "pt-toy"
    registry = Registry("tests.core.run", Path(__file__).parent / "methods")
    input_name = "VECTOR"
    data_options = DataOptions
    task_options = TaskOptions

    def version(self):
        return "0.0.0"

    def backbones(self):
        return [("tiny:SEED", "random weights of that seed"), ("dual:SEED", "two towers of that seed")]

    def default_backbone(self, role):
        return "tiny:0"

    def load_backbone(self, spec, weights, options, role):
        kind, _, seed = spec.partition(":")
        return tiny_dual(int(seed)) if kind == "dual" else TinyBackbone(int(seed), tokens=2 if role == "coarse" else 4)

    def load_data(self, spec, options, seed):
        if spec.startswith("vectors:"):
            size = int(spec.removeprefix("vectors:"))
            return {"train": vectors(size), "test": vectors(11, seed=2)}
        if not Path(spec).is_file():
            raise DataError(f"--data {spec} is not a file")
        return {"train": read_table(Path(spec), options.group_column)}

    def bind(self, dataset, backbones, task, options, training):
        """Where a method has several networks, each gets its own form of one (here: noisy) view of the sample."""
        return ByRole(dataset, training) if set(backbones) == {"fine", "coarse"} else dataset

    def backbone_of(self, module):
        if not isinstance(module, TinyNet):
            return super().backbone_of(module)
        backbone = TinyBackbone()
        backbone.module, backbone.source = module.requires_grad_(False).eval(), f"module:{type(module).__name__}"
        backbone._call.module = module
        return backbone

    def make_task(self, options, data):
        if options.task == "denoise":
            return Denoise()
        return Classification.from_options(options, data["train"])

    def task_from_json(self, spec):
        if spec.get("name") == "denoise":
            return Denoise()
        if spec.get("name") != "classification":
            raise ArtifactError(f"task {spec.get('name')!r} is unknown")
        return Classification.from_json(spec)

    def inputs(self, items, method, options):
        """Vectors, or texts such as `1,0,2,1`."""
        read = [
            item if isinstance(item, torch.Tensor) else torch.tensor(list(map(float, item.split(","))))
            for item in items
        ]
        return Rows(torch.stack(read), None, [f"row {number}" for number in range(len(read))])

    def blank_inputs(self, backbone, batch_size):
        return torch.zeros(batch_size, backbone.count)

    def export_formats(self):
        def sizes(method, out):
            out.write_text(str(method.parameter_count()))
            return ["only the size"]

        return {"sizes": sizes}

    def thumbnail(self, dataset, index):
        return EYE


def main(args=None):
    cli.main(Toy, args)


def status_of(*words):
    """Exit status of a command; what it prints goes where the test captures it."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
