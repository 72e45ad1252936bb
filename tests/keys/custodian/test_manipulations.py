"""What dishonest parties can try, through the real services, and where each attempt ends.

Sums that were altered reach the recipients: no custodian can see it, the authenticator shows it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.charters import complete
from support.federation import Federation
from support.keys import rounds_begun
from support.secure_sum import (
    ask_decryptor,
    ask_unmaskers,
    contribute_all,
    members_for,
    residues_out_of_range,
    with_offset,
)
from support.sums import chunks, decrypted, manifests_of, mask_sum, summed

from fedhelp_keys.custodian.decryptor import DecryptorService
from fedhelp_keys.custodian.unmasker import UnmaskerService
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter, Weights, parse_charter
from fedhelp_secure.errors import FedHelpError, SignatureRefused
from fedhelp_secure.sealing import SealRefused
from fedhelp_secure.secure_sum.answers import (
    Answer,
    open_decryptor_statement,
    open_unmasker_statement,
    seal_decryptor_answer,
    seal_unmasker_answer,
)
from fedhelp_secure.secure_sum.authenticator import SumForged
from fedhelp_secure.secure_sum.bodies import AnswerRefused, frame_sizes
from fedhelp_secure.secure_sum.contribution import Contribution, ManifestRefused
from fedhelp_secure.secure_sum.opening import Answers, OpenedSum, open_sum
from fedhelp_secure.secure_sum.residues import CiphertextRefused, weighted_sum
from fedhelp_secure.secure_sum.ring import add

Sent = dict[str, Contribution]
Frames = Iterator[NDArray[np.uint64]]


@dataclasses.dataclass(frozen=True, slots=True)
class Round:
    """One federation, its running custodians, and contributions to its first round."""

    federation: Federation
    decryptor: DecryptorService
    unmaskers: Mapping[str, UnmaskerService]
    sent: Sent
    directory: Path

    @property
    def charter(self) -> Charter:
        return self.federation.charter

    @property
    def total(self) -> bytes:
        """The honest ciphertext sum."""
        return summed(self.charter, self.sent)

    def masked(self, total: bytes, *, number: int = 1) -> Answer:
        """The decryptor's own answer."""
        return ask_decryptor(self.decryptor, self.charter, total, round_number=number)

    def masks(self, sent: Sent | None = None, *, number: int = 1) -> tuple[Answer, ...]:
        """The unmaskers' own answers."""
        chosen = self.sent if sent is None else sent
        return ask_unmaskers(
            self.federation, self.unmaskers, self.charter, chosen, round_number=number
        )

    def forged_masked(self, frames: Frames, *, number: int = 1) -> Answer:
        """What a dishonest decryptor signs for ``frames``, naming the honest sum."""
        return seal_decryptor_answer(
            self.charter,
            number,
            masked_sum=frames,
            sum_digest=digest(self.total),
            signing_key=self.federation.state("decryptor").signing_key(),
            out=self.directory / f"forged-{number}",
        )

    def forged_masks(self, name: str, frames: Frames, sent: Sent, *, number: int = 1) -> Answer:
        """What a dishonest unmasker signs for ``frames``, claiming ``sent``."""
        return seal_unmasker_answer(
            self.charter,
            number,
            unmasker=name,
            mask_sum=frames,
            manifests=manifests_of(self.charter, sent),
            signing_key=self.federation.state(name).signing_key(),
            out=self.directory / f"forged-{number}-{name}",
        )

    def others(self, charter: Charter, sent: Sent) -> dict[str, Frames]:
        """Every unmasker's mask sum of ``sent`` with the weights of ``charter``, by name."""
        weighted = _weights_of(charter, self.charter)
        names = [one.name for one in charter.custodians.unmaskers]
        return {name: self._masks_with_weights(name, sent, weighted) for name in names}

    def _masks_with_weights(self, name: str, sent: Sent, weights: Mapping[str, int]) -> Frames:
        """Frames of sum of weight times mask, whatever the charter's weights are."""
        per_hospital = [
            (weights[hospital], mask_sum(self.federation, self.charter, name, {hospital: part}))
            for hospital, part in sent.items()
        ]
        bits = self.charter.secure_sum.packed_bits
        for size in frame_sizes(self.charter.secure_sum):
            total = np.zeros(size, dtype=np.uint64)
            for weight, frames in per_hospital:
                frame = next(frames)
                for _ in range(weight):
                    total = add(total, frame, bits)
            yield total

    def opened(self, masked: Answer, masks: tuple[Answer, ...], *, number: int = 1) -> OpenedSum:
        return open_sum(
            self.charter,
            number,
            recipient="large-2",
            unsealing_key=self.federation.state("large-2").unsealing_key(),
            answers=Answers(masked, masks),
        )


def _weights_of(charter: Charter, real: Charter) -> dict[str, int]:
    """How often each hospital's own mask sum (already weighted once) has to be counted."""
    return {
        hospital.name: charter.weight_of(hospital.name) // real.weight_of(hospital.name)
        for hospital in real.hospitals
    }


@pytest.fixture
def honest(
    federation: Federation,
    decryptor: DecryptorService,
    unmaskers: Mapping[str, UnmaskerService],
    sent: Sent,
    tmp_path: Path,
) -> Round:
    return Round(federation, decryptor, unmaskers, sent, tmp_path)


def _releases(charter: Charter, seed: int) -> dict[str, NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    size = charter.secure_sum.values
    return {one.name: generator.integers(-50, 50, size) for one in charter.hospitals}


def _one(charter: Charter, position: int = 0) -> NDArray[np.uint64]:
    """An offset of one grid unit in one element."""
    offset = np.zeros(charter.secure_sum.polynomial_degree, dtype=np.uint64)
    offset[position] = 1
    return offset


def _shifted(frames: Frames, charter: Charter) -> Frames:
    """``frames`` with one grid unit more in the first value."""
    for number, frame in enumerate(frames):
        first = frame.copy()
        if number == 0:
            first[0] = (int(first[0]) + 1) % (1 << charter.secure_sum.packed_bits)
        yield first


def test_what_nobody_altered_opens(honest: Round) -> None:
    opened = honest.opened(honest.masked(honest.total), honest.masks())
    assert set(opened.values.tolist()) == {honest.charter.total_weight}


WRONG_SUMS: dict[str, Callable[[bytes, int], tuple[bytes, bytes]]] = {
    "another digest": lambda total, size: (total, total[:size]),
    "another sum under the digest": lambda total, size: (total[size:] + total[:size], total),
    "a frame missing": lambda total, size: (total[:-size], total[:-size]),
    "a frame missing, under the digest": lambda total, size: (total[:-size], total),
    "a frame too many": lambda total, size: (total + total[:size], total + total[:size]),
    "a frame twice": lambda total, size: (total[:size] + total[:-size], total),
    "a residue out of range": lambda total, size: (
        residues_out_of_range(total),
        residues_out_of_range(total),
    ),
}


@pytest.mark.parametrize("case", sorted(WRONG_SUMS))
def test_the_decryptor_refuses_what_is_not_the_sum_in_the_header(honest: Round, case: str) -> None:
    charter = honest.charter
    sent, named = WRONG_SUMS[case](honest.total, charter.secure_sum.frame_bytes)
    with pytest.raises(CiphertextRefused):
        honest.decryptor.answer(
            charter, 1, sum_digest=digest(named), chunks=chunks(sent, charter, frames=1)
        )
    # Nothing was stored: the honest sum is answered.
    honest.masked(honest.total)


@pytest.mark.parametrize("position", [0, 4095])
def test_an_offset_under_encryption_is_seen_by_the_recipient(honest: Round, position: int) -> None:
    charter = honest.charter
    altered = with_offset(honest.federation, charter, honest.total, _one(charter, position))
    masked = honest.masked(altered)
    with pytest.raises(SumForged):
        honest.opened(masked, honest.masks())


def test_an_offset_in_the_check_values_is_seen_too(honest: Round) -> None:
    """Alone or beside one in the values: whoever lacks the key cannot make them fit."""
    charter = honest.charter
    size = charter.secure_sum.frame_bytes
    used = frame_sizes(charter.secure_sum)[-1]
    last = with_offset(honest.federation, charter, honest.total[-size:], _one(charter, used - 1))
    masked = honest.masked(honest.total[:-size] + last)
    with pytest.raises(SumForged):
        honest.opened(masked, honest.masks())


def test_a_decryptor_that_adds_an_offset_is_seen(honest: Round) -> None:
    charter = honest.charter
    frames = decrypted(honest.federation, charter, honest.total)
    masked = honest.forged_masked(_shifted(frames, charter))
    with pytest.raises(SumForged):
        honest.opened(masked, honest.masks())


@pytest.mark.parametrize("name", ["unmasker", "unmasker-3"])
def test_an_unmasker_that_adds_an_offset_is_seen(honest: Round, name: str) -> None:
    charter = honest.charter
    frames = mask_sum(honest.federation, charter, name, honest.sent)
    forged = honest.forged_masks(name, _shifted(frames, charter), honest.sent)
    names = [one.name for one in charter.custodians.unmaskers]
    masks = tuple(
        forged if other == name else answer
        for other, answer in zip(names, honest.masks(), strict=True)
    )
    with pytest.raises(SumForged):
        honest.opened(honest.masked(honest.total), masks)


def test_another_rounds_sum_is_seen(honest: Round) -> None:
    later = contribute_all(
        honest.federation, honest.directory / "later", round_number=2, begun=False
    )
    masked = honest.masked(summed(honest.charter, later))
    with pytest.raises(SumForged):
        honest.opened(masked, honest.masks())


def test_another_sets_sum_is_seen(honest: Round) -> None:
    fewer = {name: part for name, part in honest.sent.items() if name != "small-1"}
    masked = honest.masked(summed(honest.charter, fewer))
    with pytest.raises(SumForged):
        honest.opened(masked, honest.masks())


def test_a_hospitals_ciphertext_in_anothers_place_is_seen(honest: Round) -> None:
    parts = dict(honest.sent)
    parts["small-1"] = parts["small-2"]
    masked = honest.masked(summed(honest.charter, parts))
    with pytest.raises(SumForged):
        honest.opened(masked, honest.masks())


def test_frames_in_another_order_are_seen(honest: Round) -> None:
    size = honest.charter.secure_sum.frame_bytes
    total = honest.total
    masked = honest.masked(total[size : 2 * size] + total[:size] + total[2 * size :])
    with pytest.raises(SumForged):
        honest.opened(masked, honest.masks())


def test_other_weights_are_seen(honest: Round) -> None:
    other = honest.charter.model_copy(update={"weights": Weights(large=3, small=1)})
    masked = honest.masked(summed(other, honest.sent))
    with pytest.raises(SumForged):
        honest.opened(masked, honest.masks())


# Here aggregator, decryptor and every unmasker act together: masks cancel, and only the keys that
# the hospitals alone hold are left.


def _colluding(honest: Round, total: bytes, frames: Mapping[str, Frames], claimed: Sent) -> None:
    masked = honest.forged_masked(decrypted(honest.federation, honest.charter, total))
    masks = tuple(honest.forged_masks(name, part, claimed) for name, part in frames.items())
    with pytest.raises(SumForged):
        honest.opened(masked, masks)


def test_all_custodians_together_cannot_change_the_weights(honest: Round) -> None:
    # Large hospitals count 4 instead of 2.
    other = honest.charter.model_copy(update={"weights": Weights(large=4, small=1)})
    frames = honest.others(other, honest.sent)
    _colluding(honest, summed(other, honest.sent), frames, honest.sent)


def test_all_custodians_together_cannot_leave_a_hospital_out(honest: Round) -> None:
    fewer = {name: part for name, part in honest.sent.items() if name != "small-1"}
    frames = honest.others(honest.charter, fewer)
    _colluding(honest, summed(honest.charter, fewer), frames, honest.sent)


def test_all_custodians_together_cannot_put_a_hospital_in_anothers_place(honest: Round) -> None:
    """small-2 counts twice and small-1 not at all: the weights are the claimed ones."""
    fewer = {name: part for name, part in honest.sent.items() if name != "small-1"}
    twice = [(honest.charter.weight_of(name), part) for name, part in fewer.items()]
    twice.append((1, honest.sent["small-2"]))
    total = b"".join(
        weighted_sum(
            [
                (weight, chunks(part.ciphertext.read_bytes(), honest.charter))
                for weight, part in twice
            ],
            honest.charter.secure_sum,
        )
    )
    bits = honest.charter.secure_sum.packed_bits

    def masks(name: str) -> Frames:
        alone = {"small-2": honest.sent["small-2"]}
        for left, right in zip(
            mask_sum(honest.federation, honest.charter, name, fewer),
            mask_sum(honest.federation, honest.charter, name, alone),
            strict=True,
        ):
            yield add(left, right, bits)

    names = [one.name for one in honest.charter.custodians.unmaskers]
    _colluding(honest, total, {name: masks(name) for name in names}, honest.sent)


def test_all_custodians_together_cannot_replay_an_earlier_round(honest: Round) -> None:
    """Round 1's sum, signed again as round 2's."""
    later = contribute_all(
        honest.federation, honest.directory / "later", round_number=2, begun=False
    )
    frames = decrypted(honest.federation, honest.charter, honest.total)
    masked = honest.forged_masked(frames, number=2)
    masks = tuple(
        honest.forged_masks(name, part, later, number=2)
        for name, part in honest.others(honest.charter, honest.sent).items()
    )
    with pytest.raises(SumForged):
        honest.opened(masked, masks, number=2)


def test_an_answer_of_an_earlier_round_is_no_answer(honest: Round) -> None:
    old = honest.masked(honest.total), honest.masks()
    later = contribute_all(honest.federation, honest.directory / "later", round_number=2)
    new = honest.masked(summed(honest.charter, later), number=2), honest.masks(later, number=2)
    honest.opened(*new, number=2)
    for masked, masks in ((old[0], new[1]), (new[0], (*new[1][:-1], old[1][-1])), old):
        with pytest.raises(AnswerRefused, match="another charter or round"):
            honest.opened(masked, masks, number=2)


def test_contributions_of_an_earlier_round_are_not_unmasked(honest: Round) -> None:
    honest.masked(honest.total)
    honest.masks()
    with pytest.raises(ManifestRefused):
        honest.masks(number=2)
    # The decryptor sees no round in a sum; without masks of that round it is worth nothing.
    later = contribute_all(honest.federation, honest.directory / "later", round_number=2)
    masked = honest.masked(honest.total, number=2)
    with pytest.raises(SumForged):
        honest.opened(masked, honest.masks(later, number=2), number=2)


def test_an_answer_under_another_charter_is_no_answer(honest: Round) -> None:
    document = honest.charter.document() | {"name": f"{honest.charter.name}-other"}
    other = parse_charter(complete(document))
    elsewhere = dataclasses.replace(
        honest, federation=dataclasses.replace(honest.federation, charter=other)
    )
    sent = contribute_all(elsewhere.federation, honest.directory / "elsewhere")
    masked = elsewhere.masked(summed(other, sent))
    with pytest.raises(AnswerRefused, match="another charter or round"):
        honest.opened(masked, honest.masks())


def test_unmaskers_that_were_shown_different_sets_are_noticed(honest: Round) -> None:
    charter = honest.charter
    fewer = {name: part for name, part in honest.sent.items() if name != "small-1"}
    begun = rounds_begun(honest.federation, charter)
    names = [one.name for one in charter.custodians.unmaskers]
    sets = [honest.sent, honest.sent, fewer]
    masks = tuple(
        honest.unmaskers[name].answer(
            charter, 1, members_for(charter, name, part), rounds_begun=begun
        )
        for name, part in zip(names, sets, strict=True)
    )
    with pytest.raises(AnswerRefused, match="different sets"):
        honest.opened(honest.masked(honest.total), masks)


def test_the_same_hospitals_with_another_contribution_are_another_set(honest: Round) -> None:
    charter = honest.charter
    again = contribute_all(honest.federation, honest.directory / "again")
    begun = rounds_begun(honest.federation, charter)
    names = [one.name for one in charter.custodians.unmaskers]
    sets = [honest.sent | {"small-1": again["small-1"]}, honest.sent, honest.sent]
    masks = tuple(
        honest.unmaskers[name].answer(
            charter, 1, members_for(charter, name, part), rounds_begun=begun
        )
        for name, part in zip(names, sets, strict=True)
    )
    with pytest.raises(AnswerRefused, match="different sets"):
        honest.opened(honest.masked(honest.total), masks)


def _flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))


def test_a_relayed_answer_that_was_altered_is_refused(honest: Round) -> None:
    masked, masks = honest.masked(honest.total), honest.masks()
    for which in (masked, masks[1]):
        for position in (0, 20_000, -1):
            _flip(which.body, position)
            with pytest.raises(AnswerRefused, match="body was altered"):
                honest.opened(masked, masks)
            _flip(which.body, position)
    # Auditors and the aggregator, who cannot decrypt a body, see it too.
    for which in (masked, masks[1]):
        _flip(which.body, 0)
    with pytest.raises(AnswerRefused, match="body was altered"):
        open_decryptor_statement(honest.charter, 1, masked)
    with pytest.raises(AnswerRefused, match="body was altered"):
        open_unmasker_statement(honest.charter, 1, masks[1], unmasker="unmasker-2")
    for which in (masked, masks[1]):
        _flip(which.body, 0)
    swapped = dict(masked.sealed_keys)
    swapped["large-2"] = masked.sealed_keys["large-1"]
    cases: list[tuple[Answer, tuple[Answer, ...], type[FedHelpError]]] = [
        (dataclasses.replace(masked, sealed_keys=swapped), masks, AnswerRefused),
        (masked, masks[:-1], AnswerRefused),
        (masked, (masks[0], masks[0], masks[2]), SignatureRefused),
        (masked, (masks[1], masks[0], masks[2]), SignatureRefused),
        (masks[0], masks, FedHelpError),
    ]
    for first, rest, error in cases:
        with pytest.raises(error):
            honest.opened(first, rest)
    honest.opened(masked, masks)


def test_nobody_but_the_recipient_opens_an_answer(honest: Round) -> None:
    answers = Answers(honest.masked(honest.total), honest.masks())
    for other in ("large-1", "decryptor", "unmasker", "aggregator"):
        with pytest.raises(SealRefused):
            open_sum(
                honest.charter,
                1,
                recipient="large-2",
                unsealing_key=honest.federation.state(other).unsealing_key(),
                answers=answers,
            )


def test_random_releases_open_to_their_sum_after_refused_attempts(honest: Round) -> None:
    """An attempt that was refused leaves the round as it was."""
    charter = honest.charter
    releases = _releases(charter, 5)
    sent = contribute_all(honest.federation, honest.directory / "real", releases=releases)
    total = summed(charter, sent)
    for case in sorted(WRONG_SUMS):
        wrong, named = WRONG_SUMS[case](total, charter.secure_sum.frame_bytes)
        with pytest.raises(CiphertextRefused):
            honest.decryptor.answer(
                charter, 1, sum_digest=digest(named), chunks=chunks(wrong, charter)
            )
    opened = honest.opened(honest.masked(total), honest.masks(sent))
    expected = sum(charter.weight_of(name) * release for name, release in releases.items())
    assert np.array_equal(opened.values, expected)
