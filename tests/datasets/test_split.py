"""The split into train and val: seeded, stratified, and the same on every machine."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from getam.datasets.split import stratified_split

Labels = Mapping[str, tuple[str, ...]]


def drawn(count: int, *, seed: int = 0) -> dict[str, tuple[str, ...]]:
    """Photographs of five classes, of which some are rare and some appear together."""
    choice = random.Random(seed)
    shares = {"cat": 0.5, "dog": 0.3, "horse": 0.1, "sheep": 0.05, "zebra": 0.02}
    return {
        f"img_{number}": tuple(name for name, share in shares.items() if choice.random() < share)
        for number in range(count)
    }


def counts(labels: Labels, ids: set[str]) -> Counter[str]:
    return Counter(name for id in ids for name in labels[id])


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_val_has_its_share_of_photographs_and_of_each_class(share: float) -> None:
    labels = drawn(1000)
    val = stratified_split(labels, share=share, seed=0)
    assert abs(len(val) - share * len(labels)) <= 5
    everything = counts(labels, {*labels})
    for name, count in counts(labels, val).items():
        assert abs(count - share * everything[name]) <= 2, name
    empty = [id for id, names in labels.items() if not names]
    assert abs(len(val & {*empty}) - share * len(empty)) <= 5


def test_the_split_is_known() -> None:
    # These were written down once: another machine, Python or order of the photographs gives the same.
    labels = drawn(20)
    expected = {"img_11", "img_12", "img_19", "img_4", "img_5"}
    assert stratified_split(labels, share=0.2, seed=0) == expected
    assert stratified_split(dict(reversed(labels.items())), share=0.2, seed=0) == expected
    assert stratified_split(labels, share=0.2, seed=1) != expected


def test_a_class_of_one_photograph_is_in_train_and_one_of_two_in_both() -> None:
    labels: Labels = {f"a{number}": ("cat",) for number in range(50)} | {"one": ("dog",), "x": ("cow",), "y": ("cow",)}
    for seed in range(20):
        val = stratified_split(labels, share=0.1, seed=seed)
        assert "one" not in val
        assert len(val & {"x", "y"}) == 1


def test_a_photograph_that_is_the_last_of_another_class_stays_in_train() -> None:
    labels: Labels = {"a": ("cat", "one"), "b": ("cat", "two"), **{f"c{number}": ("dog",) for number in range(9)}}
    val = stratified_split(labels, share=0.2, seed=0)
    assert not val & {"a", "b"}
    assert val


def test_val_is_taken_from_the_eligible_photographs() -> None:
    labels = drawn(200)
    eligible = {f"img_{number}" for number in range(0, 200, 4)}
    val = stratified_split(labels, share=0.2, seed=0, eligible=eligible)
    assert val <= eligible
    assert abs(len(val) - 40) <= 4
    few = {f"img_{number}" for number in range(4)}
    assert stratified_split(labels, share=0.2, seed=0, eligible=few) <= few
    assert stratified_split(labels, share=0.2, seed=0, eligible=()) == set()


def test_without_a_share_there_is_no_val() -> None:
    assert stratified_split(drawn(100), share=0, seed=0) == set()


@given(
    labels=st.dictionaries(
        st.text("abc", min_size=1, max_size=3), st.sets(st.sampled_from("uvwxyz"), max_size=4).map(sorted), max_size=30
    ),
    share=st.floats(0, 0.9),
    seed=st.integers(0, 5),
)
def test_train_knows_every_class_and_val_where_that_is_possible(
    labels: dict[str, list[str]], share: float, seed: int
) -> None:
    val = stratified_split(labels, share=share, seed=seed)
    train = {*labels} - val
    in_train = Counter(name for id in train for name in labels[id])
    in_val = {name for id in val for name in labels[id]}
    assert {*in_train.elements()} == {name for names in labels.values() for name in names}
    if share:
        for name in {*in_train.elements()} - in_val:
            last = [id for id in train if name in labels[id] and all(in_train[each] > 1 for each in labels[id])]
            assert not last
