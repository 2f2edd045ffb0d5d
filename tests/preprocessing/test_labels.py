"""The label table is the standard one: count, order, hash."""

import hashlib
from pathlib import Path

import preprocessing.labels
from preprocessing.labels import Label, labels


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


def test_table_is_beside_the_module():
    folder = Path(preprocessing.labels.__file__).parent
    assert (folder / "data" / "audioset_labels.csv").is_file()
