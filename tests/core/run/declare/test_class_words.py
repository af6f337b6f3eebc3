"""Words of classes: names told, files of three kinds, and messages that name the label."""

import pytest
from pt_core.errors import ConfigError
from pt_core.run.declare.class_names import read_class_names
from pt_core.run.declare.class_words import read_words, told, words_note

LABELS = ["AnnualCrop", "sea_lake", "10"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sea_lake", "sea lake"),
        ("PermanentCrop", "Permanent Crop"),
        ("MRIScan", "MRI Scan"),
        ("737-200", "737-200"),
        ("iPhone", "i Phone"),
        ("___", "___"),
        ("__a__b", "a b"),
        ("Ärger", "Ärger"),
    ],
)
def test_names_are_told(name, words):
    assert told(name) == words


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("words.json", '{"10": "ten", "AnnualCrop": "field", "sea_lake": "water"}'),
        ("words.csv", 'label,text\n10,ten\nAnnualCrop,field\n"sea_lake","water"\n'),
        ("words.tsv", "10\tten\nAnnualCrop\tfield\n\nsea_lake\twater\n"),
        ("words.txt", "field\nwater\nten\n\n"),
    ],
)
def test_files_of_every_kind_give_the_texts_in_class_order(tmp_path, file, content):
    (tmp_path / file).write_text(content)
    found = read_words(tmp_path / file, LABELS)
    assert list(found.items()) == [("AnnualCrop", "field"), ("sea_lake", "water"), ("10", "ten")]


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("w.json", '{"10": "ten", "AnnualCrop": "field"}', "2 texts for 3 classes; none for 'sea_lake'"),
        ("w.json", '{"10": "ten", "AnualCrop": "a", "sea_lake": "b"}', "the data lack: 'AnualCrop'.*AnnualCrop"),
        ("w.json", '{"10": "ten", "10": "two", "sea_lake": "b"}', "class '10' is there twice"),
        ("w.json", '{"10": "x", "AnnualCrop": "x", "sea_lake": "b"}', "'10' and 'AnnualCrop' have the same text 'x'"),
        ("w.json", '{"10": " ", "AnnualCrop": "x", "sea_lake": "b"}', "text of class '10' is empty"),
        ("w.json", '["a", "b", "c"]', "not an object"),
        ("w.csv", "10,a,b\n", "has 3 columns"),
        ("w.txt", "annual crop\n10\n", "2 lines for 3 classes: no line for class 'sea_lake'"),
        ("w.txt", "field\nwater\n", "no line for class '10'"),
        ("w.txt", "annual crop\nsea lake\n10\nelk\n", "no class for the line 'elk'"),
        ("w.txt", "field\n\nten\n", "text of class 'sea_lake' is empty"),
        ("w.txt", "field\nwa\ter\nten\n", "control character"),
    ],
)
def test_what_is_wrong_names_the_label(tmp_path, file, content, said):
    (tmp_path / file).write_text(content)
    with pytest.raises(ConfigError, match=said):
        read_words(tmp_path / file, LABELS)


def test_only_changed_names_are_told_of():
    assert words_note(["a", "b"], {"a": "a", "b": "b"}) is None
    assert words_note(["a", "b_c"], {"a": "a", "b_c": "b c"}) == "1 of 2 class names are read in words: 'b_c' as 'b c'"


def test_a_tuned_method_takes_other_classes_from_a_table(tmp_path):
    """`predict --class-names`: the labels are the names, their texts stand for them and describe them."""
    path = tmp_path / "new.tsv"
    path.write_text("label\ttext\nk1\tred kite\nk2\tblack kite\n")
    found = read_class_names(str(path))
    assert list(found.names) == ["k1", "k2"]
    assert found.words == {"k1": "red kite", "k2": "black kite"}
    assert found.texts == {"k1": ["red kite"], "k2": ["black kite"]}
    path.write_text("kite\nhawk\n")
    assert list(read_class_names(str(path)).names) == ["kite", "hawk"]
    path.write_text("k1\tkite\nk2\tkite\n")
    with pytest.raises(ConfigError, match="'k1' and 'k2' have the same text 'kite'"):
        read_class_names(str(path))
