from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhelp_keys.custodian.shares import KEY_BYTES, SharesRefused, join, new_key, split, spoken
from fedhelp_secure.canonical import digest


def test_any_threshold_of_the_shares_gives_the_key_and_fewer_or_more_do_not() -> None:
    key = new_key()
    assert len(key) == KEY_BYTES
    made = split(key, threshold=2, shares=3)
    assert len(set(made)) == 3
    for pair in itertools.permutations(made, 2):
        assert join(pair) == key
    for wrong in ([], ["  "], made[:1], made, [made[0], made[0]]):
        with pytest.raises(SharesRefused):
            join(wrong)


def test_shares_survive_careless_writing() -> None:
    key = new_key()
    made = split(key, threshold=2, shares=2)
    assert join(["", f"  {made[1].upper()}  \n", made[0].replace(" ", "\t")]) == key


def test_shares_of_two_sets_do_not_mix() -> None:
    key = new_key()
    first, second = (split(key, threshold=2, shares=2) for _ in range(2))
    with pytest.raises(SharesRefused):
        join([first[0], second[1]])


@settings(max_examples=40, deadline=None)
@given(place=st.integers(0, 32), word=st.sampled_from(["academic", "acid", "zero", "notaword"]))
def test_a_misread_word_is_noticed_and_not_repeated(place: int, word: str) -> None:
    made = split(bytes(range(32)), threshold=2, shares=2)
    words = made[0].split()
    if words[place] == word:
        return
    words[place] = word
    with pytest.raises(SharesRefused) as refused:
        join([" ".join(words), made[1]])
    with pytest.raises(SharesRefused) as other:
        join([made[0], split(bytes(32), threshold=2, shares=2)[1]])
    # The same sentence whatever the words are.
    assert str(refused.value) == str(other.value)


@pytest.mark.parametrize(("threshold", "shares"), [(1, 1), (1, 3), (3, 2), (0, 0), (2, 17)])
def test_senseless_numbers_are_refused(threshold: int, shares: int) -> None:
    with pytest.raises(SharesRefused):
        split(new_key(), threshold=threshold, shares=shares)


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_what_is_read_aloud_differs_with_the_key(one: bytes, other: bytes) -> None:
    groups, words = spoken(digest(one))
    assert len(groups.split()) == 8
    assert groups.replace(" ", "") == digest(one).removeprefix("sha256:")[:32]
    assert len(words.split()) == 13
    assert (spoken(digest(other)) == (groups, words)) == (one == other)


def test_the_words_are_the_first_130_bits() -> None:
    assert spoken(f"sha256:{'0' * 64}")[1] == " ".join(["academic"] * 13)
    assert spoken(f"sha256:{'f' * 64}")[1] == " ".join(["zero"] * 13)
    # 10 bits: 1 is the second word of the list.
    assert spoken(f"sha256:{'004' + '0' * 61}")[1].split()[:2] == ["acid", "academic"]
