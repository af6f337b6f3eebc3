"""Mutants of the methods' computation, and whether a test notices them.

    uv pip install cosmic-ray
    python -m benchmarks.mutation [--groups graph vision] [--only coral] [--again] [--sample 8] [--limit 6] [--table]

A mutant is a method's file with one change by an operator of cosmic-ray: another sign or arithmetic operator, a comparison, a number by
one, True for False, `and` for `or`, a condition turned around, a loop left out. It is made in function bodies only. Left out are
docstrings, annotations, options, warnings, what is there to refuse input (`raise`, `assert`, an `if` that only raises), and `strict=`.
Of every file `--sample` places are drawn from a fixed seed, one change each.

Tests are imported once per group and run in forked processes: first all of them, to see which lines each runs, then per mutant those that
run the changed statement, shortest first, up to `--limit` seconds in all. A mutant survives if they pass. `--again` runs those that
survived in the stored results once more. Results: benchmarks/results/mutation.json; what is equivalent to the original, and why, is
in benchmarks/mutation_equivalent.json.
"""

from __future__ import annotations

import argparse
import ast
import gc
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
import types
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "mutation.json"
EQUIVALENT = ROOT / "benchmarks" / "mutation_equivalent.json"
GROUPS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "graph": (
        ("pt-graph/src/pt_graph/methods/*.py", "pt-graph/src/pt_graph/relief/*.py", "pt-graph/src/pt_graph/meta.py"),
        ("tests/graph/methods",),
    ),
    "timeseries": (
        ("pt-timeseries/src/pt_timeseries/methods/*.py", "pt-timeseries/src/pt_timeseries/pond/*.py"),
        ("tests/timeseries/methods", "tests/timeseries/pond"),
    ),
    "language": (
        ("pt-language/src/pt_language/methods/*.py", "pt-language/src/pt_language/kernels/rational.py"),
        (
            "tests/language/methods",
            "tests/language/kernels",
            "tests/language/test_classes.py",
            "tests/language/server/test_prompts.py",
        ),
    ),
    "audio": (
        ("pt-audio/src/pt_audio/methods/*.py", "pt-audio/src/pt_audio/qformer/alignment.py"),
        (
            "tests/audio/test_conformance.py",
            "tests/audio/test_cuts.py",
            "tests/audio/qformer",
            "tests/audio/methods",
            "tests/audio/tasks",
        ),
    ),
    "pointcloud": (
        (
            "pt-pointcloud/src/pt_pointcloud/methods/*.py",
            "pt-pointcloud/src/pt_pointcloud/published.py",
            "pt-pointcloud/src/pt_pointcloud/networks/prompts.py",
            "pt-pointcloud/src/pt_pointcloud/networks/propagation.py",
        ),
        ("tests/pointcloud/methods", "tests/pointcloud/networks"),
    ),
    "vision": (
        (
            "pt-vision/src/pt_vision/methods/*/*.py",
            "pt-vision/src/pt_vision/bottleneck.py",
            "pt-vision/src/pt_vision/segmentation/self_training.py",
            "pt-vision/src/pt_vision/segmentation/mixing.py",
            "pt-vision/src/pt_vision/segmentation/pairs.py",
            "pt-vision/src/pt_vision/segmentation/teacher.py",
        ),
        ("tests/vision/methods", "tests/vision/segmentation"),
    ),
}
"""Package -> (files under packages/, tests)."""
SKIPPED_FILES = ("__init__.py", "panels.py")
SKIPPED_FUNCTIONS = ("__post_init__", "panels")
BINARY = {
    "Add": ("Sub", "Mul"), "Sub": ("Add",), "Mul": ("Div", "Add"), "Div": ("Mul",), "FloorDiv": ("Mul",), "Mod": ("Mul",),
    "Pow": ("Mul",), "BitAnd": ("BitOr",), "BitOr": ("BitAnd",),
}  # fmt: skip
COMPARISON = {
    "Eq": ("NotEq",), "NotEq": ("Eq",), "Lt": ("LtE", "Gt"), "LtE": ("Lt", "GtE"), "Gt": ("GtE", "Lt"), "GtE": ("Gt", "LtE"),
    "Is": ("IsNot",), "IsNot": ("Is",),
}  # fmt: skip
OPERATORS = (
    *(f"ReplaceBinaryOperator_{a}_{b}" for a, bs in BINARY.items() for b in bs),
    *(f"ReplaceComparisonOperator_{a}_{b}" for a, bs in COMPARISON.items() for b in bs),
    *(f"ReplaceUnaryOperator_Delete_{a}" for a in ("USub", "Not", "Invert")),
    *(
        "AddNot",
        "ReplaceTrueWithFalse",
        "ReplaceFalseWithTrue",
        "ReplaceAndWithOr",
        "ReplaceOrWithAnd",
        "NumberReplacer",
    ),
    *("ZeroIterationForLoop", "ReplaceBreakWithContinue", "ReplaceContinueWithBreak"),
)


@dataclass
class Mutant:
    """A change of one line, and what the tests made of it: killed, survived, or unreached by any test."""

    file: str
    line: int
    operator: str
    before: str
    after: str
    status: str = ""
    by: str = ""

    @property
    def key(self) -> str:
        return f"{self.file}: {self.before} -> {self.after}"


# ---- mutants -----------------------------------------------------------------------------------------------------------------


def spans(tree: ast.AST) -> tuple[list[ast.stmt], list[tuple[int, int, int, int]]]:
    """(statements of computation, (line, column, line, column) of what is left out inside of them)."""
    statements: list[ast.stmt] = []
    holes: list[tuple[int, int, int, int]] = []

    def place(node: Any) -> tuple[int, int, int, int]:
        return node.lineno, node.col_offset, node.end_lineno, node.end_col_offset

    def walk(body: Sequence[ast.stmt], inside: bool) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef):
                holes.extend(place(x) for x in [node.args, node.returns] if getattr(x, "lineno", None))
                if node.name not in SKIPPED_FUNCTIONS:
                    walk(node.body, True)
            elif isinstance(node, ast.ClassDef):
                walk(node.body, False)
            elif inside and not isinstance(node, ast.Raise | ast.Assert | ast.Import | ast.ImportFrom):
                if isinstance(node, ast.If) and not node.orelse and all(isinstance(x, ast.Raise) for x in node.body):
                    continue
                if isinstance(node, ast.Expr) and (
                    isinstance(node.value, ast.Constant) or "warnings.warn(" in ast.unparse(node)
                ):
                    continue
                statements.append(node)
                if isinstance(node, ast.AnnAssign):
                    holes.append(place(node.annotation))
                for name in ("body", "orelse", "finalbody"):
                    walk(getattr(node, name, []), True)

    walk(tree.body, False)  # type: ignore[attr-defined]
    holes += [place(x.value) for x in ast.walk(tree) if isinstance(x, ast.keyword) and x.arg == "strict"]
    return statements, holes


def owner(statements: Sequence[ast.stmt], line: int) -> range | None:
    """Lines of the smallest statement around a line; of a compound one those of its head."""
    found = None
    for node in statements:
        inner = [x for name in ("body", "orelse", "finalbody") for x in getattr(node, name, [])]
        end = min((x.lineno for x in inner), default=(node.end_lineno or node.lineno) + 1)
        lines = range(node.lineno, max(end, node.lineno + 1))
        if line in lines and (found is None or len(lines) < len(found)):
            found = lines
    return found


def places(path: Path) -> dict[tuple[int, int], list[tuple[str, int]]]:
    """(line, column) -> (operator, occurrence) of every change there."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator

    source = path.read_text()
    statements, holes = spans(ast.parse(source))
    nodes = list(ast_nodes(get_ast(source)))
    found: dict[tuple[int, int], list[tuple[str, int]]] = defaultdict(list)
    for name in OPERATORS:
        operator, occurrence = get_operator(f"core/{name}")(), 0
        for node in nodes:
            for start, _ in operator.mutation_positions(node):
                hidden = any((a, b) <= start < (c, d) for a, b, c, d in holes)
                if not hidden and owner(statements, start[0]) is not None:
                    found[start].append((name, occurrence))
                occurrence += 1
    return found


def mutated(source: str, operator: str, occurrence: int) -> str:
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    return mutate_code(source, get_operator(f"core/{operator}")(), occurrence)


def drawn(path: Path, count: int) -> Iterator[tuple[Mutant, str]]:
    """Mutants of a file with their source, one per drawn place."""
    name, source = str(path.relative_to(ROOT)), path.read_text()
    found = places(path)
    rng = random.Random(f"mutants of {name}")
    chosen = sorted(found)
    for place in sorted(rng.sample(chosen, min(count, len(chosen)))):
        operator, occurrence = rng.choice(found[place])
        new = mutated(source, operator, occurrence)
        before, after = (text.splitlines()[place[0] - 1].strip() for text in (source, new))
        yield Mutant(name, place[0], operator, before, after), new


def install(path: Path, source: str) -> int:
    """Give the functions of an imported file the code of another source; the number of functions."""
    codes: dict[tuple[str, int], types.CodeType] = {}

    def walk(code: types.CodeType) -> None:
        codes[code.co_qualname, code.co_firstlineno] = code
        for inner in code.co_consts:
            if isinstance(inner, types.CodeType):
                walk(inner)

    walk(compile(source, str(path), "exec", dont_inherit=True))
    count = 0
    for one in gc.get_objects():
        if isinstance(one, types.FunctionType) and one.__code__.co_filename == str(path):
            new = codes.get((one.__code__.co_qualname, one.__code__.co_firstlineno))
            if new is not None and new.co_freevars == one.__code__.co_freevars:
                one.__code__, count = new, count + 1
    return count


# ---- tests -------------------------------------------------------------------------------------------------------------------

OPTIONS = [
    *(
        "-o",
        "addopts=",
        "-m",
        "not slow and not gpu and not realdata",
        "-p",
        "no:xdist",
        "-p",
        "no:cacheprovider",
        "-q",
    ),
]


class Lines:
    """Which lines of some files every test runs, and how long it takes."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = {str(path) for path in files}
        self.tests: dict[str, dict[str, Any]] = {}
        self.failed: list[str] = []
        self.hits: set[tuple[str, int]] = set()

    def line(self, frame: Any, event: str, arg: Any) -> Any:
        if event == "line":
            self.hits.add((frame.f_code.co_filename, frame.f_lineno))
        return self.line

    def call(self, frame: Any, event: str, arg: Any) -> Any:
        return self.line if frame.f_code.co_filename in self.files else None

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
        self.hits = set()
        start = time.perf_counter()
        sys.settrace(self.call)
        yield
        sys.settrace(None)
        self.tests[item.nodeid] = {"seconds": time.perf_counter() - start, "lines": sorted(self.hits)}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


class First:
    """The first test that fails."""

    name = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.name:
            self.name = report.nodeid


def forked(body: Any, seconds: float) -> dict[str, Any] | None:
    """What `body` returns in a process of its own; None where it takes too long or dies."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        child = os.fork()
        if child == 0:
            try:
                os.setsid()
                silence = os.open(os.devnull, os.O_WRONLY)
                os.dup2(silence, 1)
                os.dup2(silence, 2)
                os.chdir(ROOT)
                out.write_text(json.dumps(body()))
            finally:
                os._exit(0)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if os.waitpid(child, os.WNOHANG)[0]:
                break
            time.sleep(0.02)
        else:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        return json.loads(out.read_text()) if out.exists() else None


def run_group(name: str, args: argparse.Namespace, known: dict[str, Mutant]) -> Iterator[list[Mutant]]:
    """The mutants of one file after the other."""
    patterns, tests = GROUPS[name]
    files = [
        p for pattern in patterns for p in sorted((ROOT / "packages").glob(pattern)) if p.name not in SKIPPED_FILES
    ]
    if args.only:
        files = [path for path in files if path.stem in args.only]
    if not files:
        return
    paths = [path for path in tests if (ROOT / path).exists()]
    pytest.main([*OPTIONS, "--collect-only", "-qq", *paths])  # imports everything once

    def baseline() -> dict[str, Any]:
        lines = Lines(files)
        pytest.main([*OPTIONS, *paths], plugins=[lines])
        return {"tests": lines.tests, "failed": lines.failed}

    seen = forked(baseline, 1200)
    assert seen is not None, f"the tests of {name} take too long"
    assert seen["tests"], f"no test of {name} could be run"
    print(f"{name}: {len(seen['tests'])} tests, {len(seen['failed'])} fail as they are: {seen['failed']}", flush=True)
    usable = {test: one for test, one in seen["tests"].items() if test not in seen["failed"]}
    for path in files:
        results: list[Mutant] = []
        statements, _ = spans(ast.parse(path.read_text()))
        for mutant, source in drawn(path, args.sample):
            if args.again and mutant.key in known and known[mutant.key].status == "killed":
                results.append(known[mutant.key])
                continue
            lines = owner(statements, mutant.line) or range(0)
            reach = {(str(path), line) for line in lines}
            covering = [t for t, one in usable.items() if reach & {tuple(hit) for hit in one["lines"]}]
            covering.sort(key=lambda test: usable[test]["seconds"])
            total, chosen = 0.0, list[str]()
            for test in covering:
                total += usable[test]["seconds"]
                if chosen and total > args.limit:
                    break
                chosen.append(test)

            def attempt(path: Path = path, source: str = source, chosen: list[str] = chosen) -> dict[str, Any]:
                count, first = install(path, source), First()
                code = pytest.main([*OPTIONS, "-x", *chosen], plugins=[first])
                return {"count": count, "code": int(code), "by": first.name}

            if not chosen:
                mutant.status = "unreached"
            else:
                found = forked(attempt, 30 + 3 * args.limit)
                assert found is None or found["count"], f"no function of {path} is loaded"
                mutant.status = "survived" if found is not None and found["code"] == 0 else "killed"
                mutant.by = "time or crash" if found is None else found["by"]
            results.append(mutant)
            if mutant.status != "killed":
                print(f"  {mutant.status} {path.name}:{mutant.line} {mutant.before}  ->  {mutant.after}", flush=True)
        killed = sum(mutant.status == "killed" for mutant in results)
        print(f"{path.name}: {killed} of {len(results)} killed", flush=True)
        yield results


# ---- the table ---------------------------------------------------------------------------------------------------------------


def table(mutants: Sequence[Mutant]) -> str:
    reasons = json.loads(EQUIVALENT.read_text()) if EQUIVALENT.exists() else {}
    rows = ["| file | mutants | killed | equivalent | survived | share |", "|---|---:|---:|---:|---:|---:|"]
    files: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in mutants:
        files[mutant.file].append(mutant)

    def row(name: str, own: Sequence[Mutant]) -> str:
        killed = sum(m.status == "killed" for m in own)
        equivalent = sum(m.status != "killed" and m.key in reasons for m in own)
        left = len(own) - killed - equivalent
        share = left / max(1, len(own) - equivalent)
        return f"| {name} | {len(own)} | {killed} | {equivalent} | {left} | {100 * share:.0f} % |"

    for name in sorted(files):
        rows.append(row(re.sub(r"packages/[^/]*/src/", "", name), files[name]))
    return "\n".join([*rows, row("**all**", mutants)])


def read() -> list[Mutant]:
    return [Mutant(**row) for row in json.loads(RESULTS.read_text())["mutants"]] if RESULTS.exists() else []


def write(mutants: Sequence[Mutant], args: argparse.Namespace) -> None:
    rows = {"sample": args.sample, "mutants": [asdict(mutant) for mutant in mutants]}
    RESULTS.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--only", nargs="+", help="files by name, without .py")
    parser.add_argument("--again", action="store_true", help="run only what is not killed in the stored results")
    parser.add_argument("--sample", type=int, default=8, help="places per file")
    parser.add_argument(
        "--limit", type=float, default=6, help="seconds of tests per mutant, by their time in the first run"
    )
    parser.add_argument("--table", action="store_true", help="print the stored results' table and stop")
    args = parser.parse_args()
    stored = read()
    if not args.table:
        os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1")
        known = {mutant.key: mutant for mutant in stored}
        for name in args.groups:
            for found in run_group(name, args, known):
                if found:
                    stored = [mutant for mutant in read() if mutant.file != found[0].file] + found
                    stored.sort(key=lambda mutant: (mutant.file, mutant.line))
                    write(stored, args)
    print(table(stored))


if __name__ == "__main__":
    main()
