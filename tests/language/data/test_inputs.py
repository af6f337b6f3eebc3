"""What `predict` reads."""

from __future__ import annotations

import pytest
from pt_core.errors import DataError
from pt_language.data.inputs import input_texts
from pt_language.data.templates import Template

from tests.language.common import TEMPLATE


def test_inputs_for_prediction(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("body\nfirst\nsecond\n", encoding="utf-8")
    template = Template(TEMPLATE)
    found = input_texts(["a text", {"text": "b"}, str(path)], template, "body").rows
    assert [row["text"] for row in found] == ["a text", "b", "first", "second"]
    with pytest.raises(DataError, match="no column 'text'"):
        input_texts([str(path)], template)
    with pytest.raises(DataError, match="has the inputs a, b"):
        input_texts(["x"], Template("{a} {b} {c}"))
    with pytest.raises(DataError, match="no input texts"):
        input_texts([], template)
