import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from preprocessing.corpora.open_sounds.lists import (
    DATA,
    OpenSoundsError,
    Recording,
    load_packages,
    load_recordings,
    load_repositories,
    load_repository_recordings,
    load_unlabelled,
    teacher_scores,
)
from preprocessing.labels import labels

KNOWN = {label.display_name for label in labels()}


def test_the_lists_agree_with_each_other() -> None:
    packages, recordings = load_packages(), load_recordings()
    assert len(recordings) == 3_489
    assert {recording.origin for recording in recordings} == {p.name for p in packages if p.split != "synthetic"}
    check(recordings)
    for name in ("soundfonts", "speech"):
        with (DATA / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(teacher_scores(DATA, name))
        assert KNOWN.issuperset(label for row in rows for label in row["labels"].split(";"))


def check(recordings: Iterable[Recording]) -> None:
    names = [recording.name for recording in recordings]
    assert len(set(names)) == len(names)
    for recording in recordings:
        assert KNOWN.issuperset(recording.labels)
        assert 0 < recording.end - recording.start <= 10.001
        assert recording.teacher.shape == (527,)
        assert recording.teacher.min() >= 0
        assert 0.001 < recording.teacher.max() <= 1


def test_repositories_are_whole_and_those_of_validation_and_test_are_labelled() -> None:
    repositories, recordings = load_repositories(), load_repository_recordings()
    split = {repository.name: repository.split for repository in repositories}
    assert {recording.origin for recording in recordings} == set(split)
    assert len(split) == len(repositories)
    assert Counter(split[recording.origin] for recording in recordings) == {
        "train": 9904,
        "validation": 437,
        "test": 922,
    }
    check(recordings)
    for recording in recordings:
        assert recording.labels or split[recording.origin] == "train"
        assert len(recording.member_sha256) == 64
        assert len(recording.sha256) in (0, 64)
    assert all(len(repository.commit) == 40 for repository in repositories)


def test_unlabelled_recordings_are_in_train_packages_and_in_no_other_list() -> None:
    unlabelled = load_unlabelled()
    split = {package.name: package.split for package in load_packages()}
    check(unlabelled)
    assert {split[recording.origin] for recording in unlabelled} == {"train"}
    assert not {(r.origin, r.path) for r in unlabelled} & {(r.origin, r.path) for r in load_recordings()}
    assert max(Counter(recording.origin for recording in unlabelled).values()) <= 250


def test_collections_that_tests_elsewhere_use_are_in_no_list() -> None:
    origins = {r.origin for r in (*load_recordings(), *load_unlabelled(), *load_repository_recordings())}
    assert not origins & {"openttd-opensfx", "scratch", "GoogleChromeLabs/web-audio-samples"}


Covered = Callable[[str], bool]


def sources(recordings: Iterable[Recording]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for recording in recordings:
        for label in recording.labels:
            found[label].add(recording.origin)
    return found


def test_the_split_keeps_packages_apart_and_test_well_covered() -> None:
    split = {package.name: package.split for package in load_packages()}
    recordings = load_recordings()
    of_group, groups, rows = defaultdict(set), defaultdict(set), Counter()
    for recording in recordings:
        for label in recording.labels:
            groups[label].add(recording.group)
            rows[label] += 1
        of_group[recording.group].add(split[recording.origin])
    assert {len(splits) for splits in of_group.values()} == {1}
    in_packages = sources(recordings)
    well = [label for label in rows if rows[label] >= 10 and len(groups[label]) >= 3]
    possible = [label for label in well if len(in_packages[label]) >= 4]
    covered = [label for label in possible if sum(split[name] == "test" for name in in_packages[label]) >= 2]
    assert (len(well), len(possible), len(covered)) == (146, 130, 121)
    for label in well:
        assert any(split[name] == "train" for name in in_packages[label]), label


def test_of_the_classes_in_four_repositories_most_have_two_in_test() -> None:
    split = {repository.name: repository.split for repository in load_repositories()}
    in_repositories = sources(load_repository_recordings())
    possible = [label for label, names in in_repositories.items() if len(names) >= 4]
    covered = [label for label in possible if sum(split[name] == "test" for name in in_repositories[label]) >= 2]
    assert (len(possible), len(covered)) == (158, 139)
    for label in possible:
        assert any(split[name] == "train" for name in in_repositories[label]), label


@pytest.mark.parametrize(("load", "least"), [(load_recordings, 0.85), (load_repository_recordings, 0.8)])
def test_the_teacher_agrees_with_the_labels_it_confirmed(
    load: Callable[[], tuple[Recording, ...]], least: float
) -> None:
    """Rows and scores in the same order: most recordings have a label among the teacher's ten best."""
    index = {label.display_name: label.index for label in labels()}
    hits = [
        bool({index[label] for label in recording.labels} & set(np.argsort(recording.teacher)[-10:].tolist()))
        for recording in load()
        if recording.labels
    ]
    assert np.mean(hits) > least


def test_stored_squares_of_bytes_are_near_the_scores(tmp_path: Path) -> None:
    scores = np.linspace(0, 1, 527)[None]
    np.savez(tmp_path / "unlabelled_scores.npz", unlabelled=np.round(255 * np.sqrt(scores)).astype(np.uint8))
    np.testing.assert_allclose(teacher_scores(tmp_path, "unlabelled"), scores, atol=0.0045)


def test_without_lists_it_says_that_the_wheel_has_none(tmp_path: Path) -> None:
    for load in (load_packages, load_recordings, load_unlabelled, load_repositories, load_repository_recordings):
        with pytest.raises(
            OpenSoundsError, match=r"the lists of open sounds are not in the wheel, run .* in a checkout"
        ):
            load(tmp_path)
