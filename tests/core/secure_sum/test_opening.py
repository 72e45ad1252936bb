"""What recipients make of the answers, and every way to alter a sum that we could think of."""

from __future__ import annotations

import dataclasses
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.federation import Federation, make_federation
from support.sums import (
    answers_of,
    contribute,
    decrypted,
    decryptor_answer,
    manifests_of,
    mask_sum,
    public_context,
    summed,
    unmasker_answer,
)

from fedhelp_secure.canonical import digest
from fedhelp_secure.errors import FedHelpError, MalformedMessage
from fedhelp_secure.sealing import SealRefused
from fedhelp_secure.secure_sum.answers import (
    Answer,
    open_unmasker_statement,
    seal_decryptor_answer,
    seal_unmasker_answer,
)
from fedhelp_secure.secure_sum.authenticator import SumForged, check_elements
from fedhelp_secure.secure_sum.bodies import AnswerRefused
from fedhelp_secure.secure_sum.contribution import Contribution, RoundRefused
from fedhelp_secure.secure_sum.opening import (
    Answers,
    OpenedSum,
    SumRefused,
    check_same_set,
    open_sum,
)
from fedhelp_secure.secure_sum.residues import CiphertextRefused, weighted_sum
from fedhelp_secure.secure_sum.ring import add

UNMASKERS = ("unmasker", "unmasker-2")
Parts = Mapping[str, Contribution]


@dataclasses.dataclass(frozen=True)
class Story:
    """Two rounds of one federation, all hospitals but one taking part."""

    federation: Federation
    releases: Mapping[str, NDArray[np.int64]]
    parts: Parts
    later: Parts
    answers: Answers
    later_answers: Answers

    @property
    def honest(self) -> list[int]:
        charter = self.federation.charter
        total = sum(charter.weight_of(name) * row for name, row in self.releases.items())
        assert isinstance(total, np.ndarray)
        return [int(value) for value in total]

    def total(self, parts: Parts | None = None) -> bytes:
        return summed(self.federation.charter, parts or self.parts)


@pytest.fixture(scope="module")
def story(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Story:
    root, generator = tmp_path_factory.mktemp("story"), np.random.default_rng(4)
    # Two frames and a bit: 8 values would be one frame.
    secure_sum = federation.charter.secure_sum
    values = 4096 * secure_sum.lanes * 2 + 50
    charter = federation.charter.model_copy(
        update={"secure_sum": secure_sum.model_copy(update={"values": values})}
    )
    federation = dataclasses.replace(federation, charter=charter)
    names = [hospital.name for hospital in charter.hospitals][:-1]
    releases = {name: generator.integers(-1000, 1000, values) for name in names}
    rounds = [
        {
            name: contribute(
                federation, name, root / f"{name}-{number}", release=row, round_number=number
            )
            for name, row in releases.items()
        }
        for number in (1, 2)
    ]
    answers = [
        answers_of(federation, parts, root / str(number), round_number=number)
        for number, parts in enumerate(rounds, 1)
    ]
    return Story(federation, releases, rounds[0], rounds[1], answers[0], answers[1])


def _open(
    story: Story, answers: Answers | None = None, *, recipient: str = "small-4", number: int = 1
) -> OpenedSum:
    return open_sum(
        story.federation.charter,
        number,
        recipient=recipient,
        unsealing_key=story.federation.state(recipient).unsealing_key(),
        answers=answers or story.answers,
    )


def test_every_hospital_opens_the_exact_sum_whether_it_took_part_or_not(story: Story) -> None:
    for hospital in story.federation.charter.hospitals:
        opened = _open(story, recipient=hospital.name)
        assert opened.values.tolist() == story.honest
        assert opened.hospitals == tuple(story.parts)
    assert _open(story, story.later_answers, number=2).values.tolist() == story.honest


@pytest.mark.parametrize("unmaskers", [1, 2, 8])
@pytest.mark.parametrize("frames", [1, 2])
def test_sums_with_any_number_of_unmaskers_are_exact(
    tmp_path: Path, unmaskers: int, frames: int
) -> None:
    """Values that fill their frames exactly, so that the tags begin another."""
    federation = make_federation(tmp_path / "parties", large=1, small=2, unmaskers=unmaskers)
    secure_sum = federation.charter.secure_sum
    values = 4096 * secure_sum.lanes * frames
    charter = federation.charter.model_copy(
        update={"secure_sum": secure_sum.model_copy(update={"values": values})}
    )
    federation = dataclasses.replace(federation, charter=charter)
    bound = charter.bound_of_sum() // charter.total_weight
    release = np.full(values, -bound, dtype=np.int64)
    parts = {
        hospital.name: contribute(
            federation, hospital.name, tmp_path / hospital.name, release=release
        )
        for hospital in charter.hospitals
    }
    answers = answers_of(federation, parts, tmp_path / "answers")
    opened = open_sum(
        charter,
        1,
        recipient="large-1",
        unsealing_key=federation.state("large-1").unsealing_key(),
        answers=answers,
    )
    assert opened.values.tolist() == [-bound * charter.total_weight] * values


@pytest.mark.parametrize(("ring_bits", "lanes"), [(25, 1), (10, 3), (8, 4), (15, 2)])
@pytest.mark.parametrize(("frames", "more"), [(0, 1), (0, 5), (1, -7), (1, 0), (2, -1)])
def test_sums_of_any_length_and_number_of_lanes_are_exact_and_noticed_if_altered(
    federation: Federation, tmp_path: Path, ring_bits: int, lanes: int, frames: int, more: int
) -> None:
    """One value, tags that two frames share, tags in one of their own, half-filled elements."""
    values = 4096 * lanes * frames + more
    changes = {"values": values, "ring_bits": ring_bits, "lanes": lanes, "packed_bits": 32}
    checks = check_elements(ring_bits=ring_bits, packed_bits=32)
    secure_sum = federation.charter.secure_sum.model_copy(
        update=changes | {"check_elements": checks}
    )
    charter = federation.charter.model_copy(update={"secure_sum": secure_sum})
    federation = dataclasses.replace(federation, charter=charter)
    bound = min(charter.bound_of_sum(), 2 ** (ring_bits - 1) - 1) // charter.total_weight
    generator = np.random.default_rng(6)
    names = [hospital.name for hospital in charter.hospitals]
    releases = {name: generator.choice([-bound, bound, 0, 1], values) for name in names}
    parts = {
        name: contribute(federation, name, tmp_path / name, release=row)
        for name, row in releases.items()
    }
    answers = answers_of(federation, parts, tmp_path / "answers")
    no_parts: Parts = {}
    story = Story(federation, releases, parts, no_parts, answers, answers)
    assert _open(story).values.tolist() == story.honest
    for at in {0, secure_sum.packed_elements - 1, secure_sum.packed_elements, -1}:
        frames_of = decrypted(federation, charter, story.total())
        forged = seal_decryptor_answer(
            charter,
            1,
            masked_sum=_shifted(frames_of, at % secure_sum.elements, 1, 32),
            sum_digest=digest(story.total()),
            signing_key=federation.state("decryptor").signing_key(),
            out=tmp_path / f"forged{at}",
        )
        with pytest.raises(SumForged):
            _open(story, dataclasses.replace(answers, decryptor=forged))


def test_all_but_one_unmaskers_masks_leave_the_sum_masked(story: Story) -> None:
    """What the aggregator, the decryptor and one of two unmaskers together have."""
    charter = story.federation.charter
    bits = charter.secure_sum.packed_bits
    masked = np.concatenate(list(decrypted(story.federation, charter, story.total())))
    for unmasker in UNMASKERS:
        masks = np.concatenate(list(mask_sum(story.federation, charter, unmasker, story.parts)))
        left = (masked - masks) & np.uint64(2**bits - 1)
        for bit in range(bits):
            ones = int(((left >> np.uint64(bit)) & np.uint64(1)).sum())
            # Fair bits, eight deviations.
            assert abs(ones - left.size / 2) < 4 * left.size**0.5


# The aggregator


def _forged(story: Story, total: bytes, directory: Path) -> Answers:
    answer = decryptor_answer(
        story.federation, story.federation.charter, total, directory / secrets.token_hex(4)
    )
    return dataclasses.replace(story.answers, decryptor=answer)


def _sum_of(story: Story, parts: list[tuple[int, bytes]]) -> bytes:
    frame = story.federation.charter.secure_sum.frame_bytes
    streams = [
        (weight, iter([data[at : at + frame] for at in range(0, len(data), frame)]))
        for weight, data in parts
    ]
    return b"".join(weighted_sum(streams, story.federation.charter.secure_sum))


def _weighted(story: Story, parts: Parts) -> list[tuple[int, bytes]]:
    charter = story.federation.charter
    return [(charter.weight_of(name), part.ciphertext.read_bytes()) for name, part in parts.items()]


def _refuses(story: Story, total: bytes, directory: Path) -> None:
    assert total != story.total()
    with pytest.raises(SumForged):
        _open(story, _forged(story, total, directory))


@pytest.mark.parametrize("element", [0, 4095, 4096, 8000])
@pytest.mark.parametrize("offset", [1, -1, 1000])
def test_an_offset_on_the_ciphertext_sum_is_noticed(
    story: Story, tmp_path: Path, element: int, offset: int
) -> None:
    charter = story.federation.charter
    context, bits = public_context(story.federation, charter), charter.secure_sum.packed_bits
    frames = []
    for start in range(0, charter.secure_sum.frames * 4096, 4096):
        elements = np.zeros(4096, dtype=np.uint64)
        if start <= element < start + 4096:
            elements[element - start] = offset % 2**bits
        frames.append(context.encrypt_frame(elements))
    parts = [*_weighted(story, story.parts), (1, b"".join(frames))]
    _refuses(story, _sum_of(story, parts), tmp_path)


def test_a_contribution_of_another_round_is_noticed(story: Story, tmp_path: Path) -> None:
    mixed = dict(story.parts) | {"small-1": story.later["small-1"]}
    _refuses(story, story.total(mixed), tmp_path)
    _refuses(story, story.total(story.later), tmp_path)


def test_a_contribution_in_anothers_place_is_noticed(story: Story, tmp_path: Path) -> None:
    swapped = dict(story.parts) | {"small-1": story.parts["small-2"]}
    _refuses(story, story.total(swapped), tmp_path)


def test_a_hospital_left_out_or_taken_twice_is_noticed(story: Story, tmp_path: Path) -> None:
    weighted = _weighted(story, story.parts)
    _refuses(story, _sum_of(story, weighted[:-1]), tmp_path)
    _refuses(story, _sum_of(story, [*weighted, weighted[-1]]), tmp_path)


def test_changed_weights_are_noticed(story: Story, tmp_path: Path) -> None:
    for at in (0, len(story.parts) - 1):
        weighted = _weighted(story, story.parts)
        weighted[at] = (weighted[at][0] + 1, weighted[at][1])
        _refuses(story, _sum_of(story, weighted), tmp_path)


def test_a_dropped_chunk_is_noticed(story: Story, tmp_path: Path) -> None:
    charter = story.federation.charter
    frame = charter.secure_sum.frame_bytes
    total = story.total()
    zeros = public_context(story.federation, charter).encrypt_frame(np.zeros(4096, dtype=np.uint64))
    _refuses(story, total[:frame] + zeros + total[2 * frame :], tmp_path)
    parts = [(1, total), (1, total[:frame])]
    with pytest.raises(CiphertextRefused):
        _sum_of(story, parts)


def test_frames_in_another_order_are_noticed(story: Story, tmp_path: Path) -> None:
    frame = story.federation.charter.secure_sum.frame_bytes
    total = story.total()
    _refuses(story, total[frame : 2 * frame] + total[:frame] + total[2 * frame :], tmp_path)


def test_another_set_for_the_unmaskers_than_for_the_decryptor_is_noticed(
    federation: Federation, story: Story, tmp_path: Path
) -> None:
    """All unmaskers agree, and their cohort is large enough: still another sum."""
    charter = story.federation.charter
    extra = contribute(story.federation, "small-4", tmp_path / "extra")
    everyone = {**story.parts, "small-4": extra}
    answers = answers_of(story.federation, everyone, tmp_path / "answers", total=story.total())
    with pytest.raises(SumForged):
        _open(story, answers)
    assert len(charter.hospitals) == len(everyone)
    assert _open(story).hospitals == tuple(story.parts)


def test_replayed_answers_are_refused(story: Story) -> None:
    old, new = story.answers, story.later_answers
    mixes = [
        dataclasses.replace(new, decryptor=old.decryptor),
        dataclasses.replace(new, unmaskers=old.unmaskers),
        dataclasses.replace(new, unmaskers=(new.unmaskers[0], old.unmaskers[1])),
        old,
    ]
    for mixed in mixes:
        with pytest.raises(AnswerRefused):
            _open(story, mixed, number=2)


def test_missing_surplus_and_exchanged_answers_are_refused(story: Story) -> None:
    first, second = story.answers.unmaskers
    refused: list[tuple[tuple[Answer, ...], type[FedHelpError]]] = [
        ((), AnswerRefused),
        ((first,), AnswerRefused),
        ((first, second, second), AnswerRefused),
        ((second, first), FedHelpError),
        ((first, first), FedHelpError),
        ((story.answers.decryptor, second), MalformedMessage),
    ]
    for unmaskers, error in refused:
        with pytest.raises(error):
            _open(story, dataclasses.replace(story.answers, unmaskers=unmaskers))
    with pytest.raises(MalformedMessage):
        _open(story, dataclasses.replace(story.answers, decryptor=first))


# The custodians


def _shifted(
    frames: Iterator[NDArray[np.uint64]], at: int, offset: int, bits: int
) -> Iterator[NDArray[np.uint64]]:
    start = 0
    for frame in frames:
        change = np.zeros(frame.size, dtype=np.uint64)
        if start <= at < start + frame.size:
            change[at - start] = offset % 2**bits
        start += frame.size
        yield add(frame, change, bits)


@pytest.mark.parametrize("at", [0, 5000, -1])
@pytest.mark.parametrize("offset", [1, -1, 1 << 20])
def test_a_decryptor_that_adds_an_offset_is_noticed(
    story: Story, tmp_path: Path, at: int, offset: int
) -> None:
    """At the last element too, which is a tag."""
    charter = story.federation.charter
    total, bits = story.total(), charter.secure_sum.packed_bits
    frames = decrypted(story.federation, charter, total)
    answer = seal_decryptor_answer(
        charter,
        1,
        masked_sum=_shifted(frames, at % charter.secure_sum.elements, offset, bits),
        sum_digest=digest(total),
        signing_key=story.federation.state("decryptor").signing_key(),
        out=tmp_path / "forged",
    )
    with pytest.raises(SumForged):
        _open(story, dataclasses.replace(story.answers, decryptor=answer))


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("offset", [1, -1])
def test_an_unmasker_that_adds_an_offset_is_noticed(
    story: Story, tmp_path: Path, which: int, offset: int
) -> None:
    charter = story.federation.charter
    name, bits = UNMASKERS[which], charter.secure_sum.packed_bits
    frames = mask_sum(story.federation, charter, name, story.parts)
    unmaskers = list(story.answers.unmaskers)
    unmaskers[which] = seal_unmasker_answer(
        charter,
        1,
        unmasker=name,
        mask_sum=_shifted(frames, 3, offset, bits),
        manifests=manifests_of(charter, story.parts),
        signing_key=story.federation.state(name).signing_key(),
        out=tmp_path / "forged",
    )
    with pytest.raises(SumForged):
        _open(story, dataclasses.replace(story.answers, unmaskers=tuple(unmaskers)))


def test_unmaskers_that_answer_for_different_sets_are_noticed(story: Story, tmp_path: Path) -> None:
    charter = story.federation.charter
    extra = contribute(story.federation, "small-4", tmp_path / "extra")
    everyone = {**story.parts, "small-4": extra}
    other = unmasker_answer(
        story.federation, charter, "unmasker-2", everyone, tmp_path / "unmasker-2"
    )
    answers = dataclasses.replace(story.answers, unmaskers=(story.answers.unmaskers[0], other))
    with pytest.raises(AnswerRefused, match="different sets"):
        _open(story, answers)
    statements = [
        open_unmasker_statement(charter, 1, answer, unmasker=name)
        for name, answer in zip(UNMASKERS, answers.unmaskers, strict=True)
    ]
    check_same_set(statements[:1] * 2)
    with pytest.raises(AnswerRefused):
        check_same_set(statements)


@pytest.mark.parametrize("sign", [1, -1])
def test_refuses_sums_that_honest_releases_cannot_reach(
    federation: Federation, tmp_path: Path, sign: int
) -> None:
    """A hospital that releases more than the clip: authentic, but out of bounds."""
    charter = federation.charter
    names = [hospital.name for hospital in charter.hospitals]
    values, weight = charter.secure_sum.values, charter.weight_of("small-1")
    bound = charter.bound_of_sum()
    assert weight == 1
    for excess, directory in ((0, tmp_path / "fits"), (1, tmp_path / "exceeds")):
        directory.mkdir()
        parts = {}
        for name in names:
            release = np.zeros(values, dtype=np.int64)
            if name == "small-1":
                release[-1] = sign * (bound + excess)
            parts[name] = contribute(federation, name, directory / name, release=release)
        answers = answers_of(federation, parts, directory / "answers")
        key = federation.state("large-1").unsealing_key()
        if excess:
            with pytest.raises(SumRefused):
                open_sum(charter, 1, recipient="large-1", unsealing_key=key, answers=answers)
        else:
            opened = open_sum(charter, 1, recipient="large-1", unsealing_key=key, answers=answers)
            assert opened.values[-1] == sign * bound


# Recipients


def test_refuses_anothers_key_and_outsiders(story: Story) -> None:
    charter = story.federation.charter
    for holder in ("small-3", "aggregator", "decryptor", "unmasker"):
        with pytest.raises(SealRefused):
            open_sum(
                charter,
                1,
                recipient="small-4",
                unsealing_key=story.federation.state(holder).unsealing_key(),
                answers=story.answers,
            )
    with pytest.raises(FedHelpError):
        open_sum(
            charter,
            1,
            recipient="small-9",
            unsealing_key=story.federation.state("small-3").unsealing_key(),
            answers=story.answers,
        )


def test_refuses_rounds_and_charters_that_the_answers_are_not_for(story: Story) -> None:
    for number, error in ((0, RoundRefused), (3, RoundRefused), (2, AnswerRefused)):
        with pytest.raises(error):
            _open(story, number=number)
    renamed = story.federation.charter.model_copy(update={"retention_days": 7})
    other = dataclasses.replace(
        story, federation=dataclasses.replace(story.federation, charter=renamed)
    )
    with pytest.raises(AnswerRefused):
        _open(other)


def test_a_body_that_changed_after_its_statement_is_refused(story: Story, tmp_path: Path) -> None:
    body = tmp_path / "body"
    shutil.copy(story.answers.unmaskers[1].body, body)
    data = bytearray(body.read_bytes())
    data[-1] ^= 1
    body.write_bytes(data)
    altered = dataclasses.replace(story.answers.unmaskers[1], body=body)
    unmaskers = (story.answers.unmaskers[0], altered)
    with pytest.raises(AnswerRefused):
        _open(story, dataclasses.replace(story.answers, unmaskers=unmaskers))
