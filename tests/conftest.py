"""Shared settings: one thread per process (tiny tensors gain nothing from more), and a feature cache of the tests' own."""

import os

import pytest
import torch

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PT_CACHE", str(tmp_path / "cache"))


def pytest_collection_modifyitems(config, items):
    """`pytest -m slow` names tests of real data that are slow too: without the data they are left out, and counted as such."""
    if "PT_REALDATA" in os.environ:
        return
    without = [item for item in items if item.get_closest_marker("realdata") is not None]
    items[:] = [item for item in items if item not in without]
    if without:
        config.hook.pytest_deselected(items=without)


def pytest_report_header(config):
    """What this run leaves out, and how to run it: shown first, unless -m names markers."""
    chosen = config.getoption("markexpr")
    if chosen != "not slow and not gpu and not realdata":
        return f"markers: {chosen}" if chosen else None
    return (
        "without slow, gpu and realdata tests; run them with `pytest -m slow`, `pytest -m gpu` (needs CUDA), "
        "`PT_REALDATA=DIR pytest -m realdata`"
    )


def pytest_terminal_summary(terminalreporter, config):
    """With -q pytest prints no header: say it at the end, with the number."""
    left_out = len(terminalreporter.stats.get("deselected", []))
    header = pytest_report_header(config)
    if left_out and header:
        terminalreporter.write_line(f"{left_out} tests left out: {header}")
