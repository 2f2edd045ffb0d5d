"""The class table is the standard one (count, order, hash), and its parents make AudioSet's ontology."""

import hashlib

import pytest

from preprocessing.labels import Label, ancestors, depth, descendants, labels


def test_table_is_the_standard_one():
    table = labels()
    assert len(table) == 527
    assert [label.index for label in table] == list(range(527))
    assert len({label.mid for label in table}) == len({label.display_name for label in table}) == 527
    assert table[0] == Label(0, "/m/09x0r", "Speech")
    assert table[137] == Label(137, "/m/04rlf", "Music")
    assert table[526] == Label(526, "/m/07hvw1", "Field recording")


def test_hash_of_order_mids_and_names():
    text = "\n".join(f"{label.index}\t{label.mid}\t{label.display_name}" for label in labels())
    # computed once from class_labels_indices.csv of the AudioSet authors
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "ccad22ac9cfd24bf699d8ac0c06518652234a56dcd5a62c69110d98df727c7a3"
    )


def test_parents_are_classes_and_names_with_commas_stay_whole():
    names = {label.display_name for label in labels()}
    assert all(parent in names for label in labels() for parent in label.parents)
    assert not any(";" in name for name in names)  # what separates parents
    assert sum(not label.parents for label in labels()) == 126
    assert sum(len(label.parents) > 1 for label in labels()) == 21
    table = {label.display_name: label.parents for label in labels()}
    assert table["Goat"] == ("Livestock, farm animals, working animals",)
    assert table["Bleat"] == ("Goat", "Sheep")
    assert table["Growling"] == ("Dog", "Cat", "Roaring cats (lions, tigers)", "Canidae, dogs, wolves")


def test_ancestors_and_descendants_follow_all_paths():
    assert ancestors("Animal") == frozenset()
    assert ancestors("Goat") == {"Livestock, farm animals, working animals", "Animal"}
    assert ancestors("Police car (siren)") >= {"Emergency vehicle", "Motor vehicle (road)", "Vehicle", "Siren", "Alarm"}
    assert descendants("Goat") == {"Bleat"}
    for label in labels():
        name = label.display_name
        assert name not in ancestors(name)  # no cycle
        assert all(name in descendants(ancestor) for ancestor in ancestors(name))
        assert all(name in ancestors(descendant) for descendant in descendants(name))


def test_depth_is_that_of_the_longest_path():
    assert (depth("Animal"), depth("Goat")) == (0, 2)
    assert depth("Car alarm") == 3  # by Vehicle, Motor vehicle (road) and Car, not by Alarm
    assert max(map(depth, (label.display_name for label in labels()))) == depth("Rimshot") == 5
    for label in labels():
        assert depth(label.display_name) == 1 + max(map(depth, label.parents), default=-1)


@pytest.mark.parametrize("function", [ancestors, descendants, depth])
def test_an_unknown_name_is_a_key_error(function):
    with pytest.raises(KeyError, match="Unheard"):
        function("Unheard")
