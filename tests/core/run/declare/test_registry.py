"""Methods are found without importing them, in the package and in the folders of PT_METHOD_PATH."""

import sys
import textwrap

import pytest
from pt_core.errors import MissingExtra, UserError
from pt_core.run.declare.registry import SEARCH_VARIABLE, Registry, read_info

HEAD = """
    ID = "{id}"
    TITLE = "A Title"
    TUNES = "something"
    NEEDS = {{"train": "labelled things"}}
"""
BODY = """
    from pt_core import Method
    class Toy(Method):
        def forward(self, batch):
            return batch.inputs
"""


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))


@pytest.fixture
def registry(tmp_path, monkeypatch):
    folder = tmp_path / "package" / "methods"
    write(folder / "first.py", HEAD.format(id="first") + "\n    raise RuntimeError('imported')\n")
    write(folder / "deeper" / "second.py", HEAD.format(id="second") + '    EXTRA = "big"\n    import no_such_library\n')
    write(folder / "_helper.py", "raise RuntimeError")
    write(folder / "shared.py", "x = 1\nraise RuntimeError")
    monkeypatch.delenv(SEARCH_VARIABLE, raising=False)
    return Registry("package", folder)


def add_folder(monkeypatch, *folders):
    monkeypatch.setenv(SEARCH_VARIABLE, ":".join(map(str, folders)))


def test_infos_are_read_without_importing(registry):
    infos = registry.infos()
    assert list(infos) == ["first", "second"]
    assert infos["second"].extra == "big"
    assert infos["second"].module == "package.methods.deeper.second"
    assert infos["first"].needs == {"train": "labelled things"}


def test_unknown_method_names_the_nearest_and_all(registry):
    with pytest.raises(UserError, match=r"no method 'frist' \(did you mean 'first'\?\); known: first, second"):
        registry.info("frist")
    assert registry.info("package/first").id == "first"
    with pytest.raises(UserError, match="no method 'other/first'"):
        registry.info("other/first")


@pytest.mark.parametrize("name", ["os.path", "../first", "package.methods.first", "builtins.eval", "pt_core/run"])
def test_dotted_and_outside_names_are_only_looked_up(registry, name):
    with pytest.raises(UserError, match="has no method"):
        registry.load(name)


def test_search_path_adds_methods_and_loads_them(registry, tmp_path, monkeypatch):
    write(tmp_path / "mine" / "third.py", HEAD.format(id="third") + BODY)
    add_folder(monkeypatch, tmp_path / "mine")
    assert list(registry.infos()) == ["first", "second", "third"]
    loaded = registry.load("third")
    assert loaded.__name__ == "Toy"
    assert registry.load("third") is loaded, "a method file is imported once"


def test_file_that_fails_on_import_leaves_no_half_module(registry, tmp_path, monkeypatch):
    write(tmp_path / "mine" / "broken.py", HEAD.format(id="broken") + "    1 / 0\n")
    add_folder(monkeypatch, tmp_path / "mine")
    with pytest.raises(ZeroDivisionError):
        registry.load("broken")
    assert "pt_method_broken" not in sys.modules


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD.format(id="first"), "'first' is claimed by .*first.py and .*extra.py"),
        ('ID = "x"\nTITLE = "t"', "defines ID but not NEEDS, TUNES"),
        ("def broken(:", "not valid Python"),
        ('ID = "x" + str(1)', "ID is no literal"),
    ],
)
def test_wrong_method_file_is_refused_by_name(registry, tmp_path, monkeypatch, text, message):
    write(tmp_path / "mine" / "extra.py", text)
    add_folder(monkeypatch, tmp_path / "mine")
    with pytest.raises(UserError, match=message):
        registry.infos()


def test_search_path_must_exist(registry, tmp_path, monkeypatch):
    add_folder(monkeypatch, tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"{SEARCH_VARIABLE} names .*nowhere"):
        registry.infos()


@pytest.mark.parametrize("count", [0, 2])
def test_file_must_define_one_method(registry, tmp_path, monkeypatch, count):
    more = BODY + BODY.replace("Toy", "Other")
    write(tmp_path / f"mine{count}" / f"many{count}.py", HEAD.format(id="many") + (more if count else "\n    x = 1\n"))
    add_folder(monkeypatch, tmp_path / f"mine{count}")
    with pytest.raises(UserError, match=f"exactly one Method subclass, it has {count}"):
        registry.load("many")


def test_missing_extra_names_the_install_command(registry, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingExtra, match=r"'second' needs 'no_such_library'; run: pip install 'package\[big\]'"):
        registry.load("second")


def test_file_without_id_is_no_method(tmp_path):
    write(tmp_path / "plain.py", "x = 1")
    assert read_info(tmp_path / "plain.py", None) is None
