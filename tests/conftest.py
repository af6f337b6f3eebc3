"""Shared settings: one thread per process (tiny tensors gain nothing from more), and a feature cache of the tests' own."""

import os

import pytest
import torch

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PT_CACHE", str(tmp_path / "cache"))
