"""Makes the golden artifacts of the current format: `python -m tests.golden.make`, on a clean checkout only.

Every format version keeps its folder for ever, made by the code that first wrote it; later code has to load it with the same outputs.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from pt_core.artifact import FORMAT_VERSION
from pt_core.run.command.api import Api
from safetensors.torch import save_file

ROOT = Path(__file__).parent
KINDS = ("toy-prompt", "vision-vpt")


def folder_of(version):
    return ROOT / f"format-{version}"


def toy_inputs():
    """(5, 4) vectors."""
    return (torch.arange(20.0).reshape(5, 4) % 7 - 3) / 2


def pictures():
    """Four RGB pictures made of integers, so that every machine gets the same."""
    row, column = np.mgrid[0:24, 0:24]
    return [
        np.stack(
            [(row * (k + 1) + column * 3) % 256, (row * column * (k + 2)) % 256, (row - column) * 7 % 256], -1
        ).astype("uint8")
        for k in range(4)
    ]


def load(kind, folder, **options):
    """A predictor through the public path."""
    if kind == "toy-prompt":
        from tests.core.run.toy import Toy

        return Api(Toy).load(folder, device="cpu", **options)
    import pt_vision

    return pt_vision.load(folder, device="cpu", **options)


def inputs_of(kind):
    if kind == "toy-prompt":
        return list(toy_inputs())
    from PIL import Image

    return [Image.fromarray(picture) for picture in pictures()]


def outputs(predictor, items):
    """Logits (input, class), and the records."""
    method, dataset = predictor.method, predictor.modality.inputs(items, predictor.method, None)
    rows = range(len(dataset))
    batch = dataset.collate(list(rows), [dataset.sample(row, epoch=None, seed=0) for row in rows])
    with torch.no_grad():
        return method(batch), predictor.predict(items)


def check_clean(root):
    """Refuse a tree with changes: a golden file must belong to a commit."""
    command = ["git", "-C", str(root), "status", "--porcelain"]
    changed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    if changed:
        raise SystemExit(f"the tree has changes ({changed[0].strip()}, {len(changed)} in all); commit first")
    head = ["git", "-C", str(root), "rev-parse", "HEAD"]
    return subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()


def fit(kind, out):
    if kind == "toy-prompt":
        from tests.core.run.toy import Toy

        return Api(Toy).fit("prompt", data="vectors:40", auxiliary=True, out=out, quiet=True)
    import pt_vision

    options = {"mode": "deep", "prompt_length": 4, "shots": 2, "epochs": 3, "batch_size": 10, "device": "cpu"}
    tuning = {"optimizer": "adamw", "lr": 0.01, "lr_per_256": False, "warmup_epochs": 0}
    return pt_vision.fit("vpt", data="builtin:digits", out=out, quiet=True, **options, **tuning)


def main():
    commit = check_clean(ROOT)
    target = folder_of(FORMAT_VERSION)
    if target.exists():
        raise SystemExit(f"{target.name} exists; golden files of a format are made once")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        for kind in KINDS:
            run = fit(kind, Path(work) / kind)
            (run.path / "tuned").rename(Path(work) / f"{kind}-tuned")
            target.mkdir(exist_ok=True)
            subprocess.run(["cp", "-r", f"{work}/{kind}-tuned", str(target / kind)], check=True)
            logits, records = outputs(load(kind, target / kind), inputs_of(kind))
            save_file({"logits": logits.contiguous()}, target / f"{kind}.safetensors")
            expected = {
                "commit": commit,
                "torch": torch.__version__,
                "predicted": [row["predicted"] for row in records],
            }
            (target / f"{kind}.json").write_text(json.dumps(expected, indent=1) + "\n")
    print(f"made {target}", file=sys.stderr)


if __name__ == "__main__":
    main()
