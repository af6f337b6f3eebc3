"""An artifact is input from elsewhere: nothing in it names code, reaches a loader, or leaves its folder."""

import json
import sys

import pytest
from pt_core.errors import UserError
from pt_core.run.command.api import Api
from pt_core.sealed import read_json, read_tensors, write_sealed

from tests.core.run.toy import Toy
from tests.golden.make import folder_of

DEEP = {"a": 1}
for _ in range(60):
    DEEP = {"a": DEEP}


@pytest.fixture
def crafted(tmp_path, monkeypatch):
    """A folder with valid hashes whose card was changed; a module `evil` lies on the import path and would leave a marker."""
    marker = tmp_path / "marker"
    (tmp_path / "evil.py").write_text(
        f"open({str(marker)!r}, 'w').close()\nclass Method: pass\ndef run(*a, **k): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def craft(**changes):
        golden = folder_of(1) / "toy-prompt"
        card = {**read_json(golden / "card.json"), **changes}
        weights = read_tensors(golden / "weights.safetensors")
        write_sealed(tmp_path / "artifact", {"card.json": json.dumps(card), "weights.safetensors": weights})
        return tmp_path / "artifact"

    yield craft
    assert not marker.exists(), "code of the artifact's choice ran"
    assert "evil" not in sys.modules
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact", "evil.py"]


CHANGES = {
    "a flag for the loader": {"config": {"length": 2, "auxiliary": False, "trust_remote_code": True}},
    "a class path in the options": {"config": {"length": 2, "_component_": "evil.Method"}},
    "a class path as a value": {"config": {"length": "evil.Method"}},
    "a module as the method": {"method": "pt-toy/evil"},
    "a dotted method": {"method": "pt-toy/evil.Method"},
    "a path as the method": {"method": "pt-toy/../../evil"},
    "another package's method": {"method": "evil/run"},
    "no package": {"method": "prompt"},
    "a task that is code": {"task": {"name": "evil.run", "labels": ["a", "b", "c"]}},
    "a task with a class": {"task": {"name": "classification", "labels": ["a", "b", "c"], "__class__": "evil.Method"}},
    "a huge size": {"config": {"length": 10**12, "auxiliary": False}},
    "a huge number": {"config": {"length": 10**400, "auxiliary": False}},
    "a huge number with a point": {"config": {"length": 1e12, "auxiliary": False}},
    "a huge size of another form": {"config": {"length": 1e300, "auxiliary": False}},
    "very deep nesting": {"config": DEEP},
    "three million labels": {"task": {"name": "classification", "labels": [str(i) for i in range(300_000)]}},
}


@pytest.mark.parametrize("name", CHANGES)
def test_crafted_card_is_refused_and_runs_nothing(name, crafted):
    with pytest.raises(UserError) as error:
        Api(Toy).load(crafted(**CHANGES[name]), device="cpu")
    assert len(str(error.value)) < 1000


def test_the_uncrafted_card_loads(crafted):
    assert Api(Toy).load(crafted(), device="cpu").method.length == 2


def test_text_of_a_card_is_not_executed_when_it_is_shown(crafted):
    found = crafted(notes=["{{ 7*7 }} <script>"], metrics={"accuracy": 0.5})
    assert Api(Toy).load(found, device="cpu").card["notes"] == ["{{ 7*7 }} <script>"]
