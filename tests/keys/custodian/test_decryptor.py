from __future__ import annotations

import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.charters import complete
from support.federation import Federation
from support.secure_sum import (
    ask_decryptor,
    contribute_all,
    encrypt_reals,
    residues_out_of_range,
)
from support.sums import chunks, summed

from fedhelp_keys.custodian.decryptor import DecryptorService
from fedhelp_keys.custodian.epochs import RoundOutOfOrder
from fedhelp_keys.custodian.key_files import (
    FIRST,
    prepare,
    public_context_path,
    secret_path,
)
from fedhelp_keys.custodian.store import REFUSALS_ALLOWED, AlreadyAnswered, TooManyRefusals
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import CharterRefused, parse_charter
from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.secure_sum.answers import Answer, open_decryptor_statement
from fedhelp_secure.secure_sum.bodies import body_bytes
from fedhelp_secure.secure_sum.ckks import NotAnInteger, PublicContext
from fedhelp_secure.secure_sum.contribution import Contribution
from fedhelp_secure.secure_sum.residues import CiphertextRefused
from fedhelp_secure.state import StateDirectory, StateError
from fedhelp_secure.transport.identity import Identity, Role


@pytest.fixture
def total(federation: Federation, sent: dict[str, Contribution]) -> bytes:
    return summed(federation.charter, sent)


@pytest.fixture
def other(federation: Federation, tmp_path: Path) -> bytes:
    """Another sum of the same round."""
    return summed(federation.charter, contribute_all(federation, tmp_path / "other"))


def _never() -> Iterator[bytes]:
    raise AssertionError("a sum was read that need not be")
    yield b""


def _files(service_state: StateDirectory) -> set[Path]:
    return {path for path in service_state.role_directory().rglob("*") if path.is_file()}


def test_answers_one_sum_a_round_and_repeats_its_bytes_after_a_restart(
    federation: Federation, decryptor: DecryptorService, total: bytes, other: bytes
) -> None:
    charter = federation.charter
    first = ask_decryptor(decryptor, charter, total)
    statement = open_decryptor_statement(charter, 1, first)
    assert statement.sum_digest == digest(total)
    assert first.body.stat().st_size == body_bytes(charter.secure_sum)
    restarted = DecryptorService(federation.state("decryptor"))
    for service in (decryptor, restarted):
        again = service.answer(charter, 1, sum_digest=digest(total), chunks=_never())
        assert again == first
        with pytest.raises(AlreadyAnswered):
            service.answer(charter, 1, sum_digest=digest(other), chunks=_never())
    assert ask_decryptor(restarted, charter, other, round_number=2) != first
    restarted.close()


def test_the_chunks_may_be_cut_anywhere_between_frames(
    federation: Federation, decryptor: DecryptorService, total: bytes
) -> None:
    charter = federation.charter
    answer = decryptor.answer(
        charter, 1, sum_digest=digest(total), chunks=chunks(total, charter, frames=2)
    )
    assert ask_decryptor(decryptor, charter, total) == answer


def test_bad_sums_are_refused_and_use_nothing_up(
    federation: Federation, decryptor: DecryptorService, total: bytes
) -> None:
    charter = federation.charter
    size = charter.secure_sum.frame_bytes
    before = _files(federation.state("decryptor"))
    bad = {
        "nothing": [],
        "an empty chunk": [b""],
        "no whole frame": [total[:-1]],
        "a byte too many": [total + b"\0"],
        "a frame missing": [total[:-size]],
        "a frame too many": [total + total[:size]],
        "a residue out of range": [residues_out_of_range(total)],
    }
    for parts in bad.values():
        with pytest.raises(CiphertextRefused):
            decryptor.answer(charter, 1, sum_digest=digest(b"".join(parts)), chunks=iter(parts))
    with pytest.raises(CiphertextRefused, match="not the one that its header names"):
        decryptor.answer(charter, 1, sum_digest=digest(b"x"), chunks=iter([total]))
    with pytest.raises(MalformedMessage):
        decryptor.answer(charter, 1, sum_digest="x", chunks=iter([total]))
    assert _files(federation.state("decryptor")) == before
    ask_decryptor(decryptor, charter, total)


@pytest.mark.parametrize("case", ["too long", "out of range"])
def test_nothing_is_read_after_what_cannot_be_a_sum(
    federation: Federation, decryptor: DecryptorService, total: bytes, case: str
) -> None:
    first = total * 2 if case == "too long" else residues_out_of_range(total)[: len(total) // 3]

    def parts() -> Iterator[bytes]:
        yield first
        yield from _never()

    with pytest.raises(CiphertextRefused):
        decryptor.answer(federation.charter, 1, sum_digest=digest(total), chunks=parts())


def test_a_stalled_stream_of_one_charter_does_not_hold_up_another(
    federation: Federation,
    decryptor: DecryptorService,
    sent: dict[str, Contribution],
    tmp_path: Path,
) -> None:
    charter = federation.charter
    total = summed(charter, sent)
    begun, go_on = threading.Event(), threading.Event()
    answers: list[Answer] = []

    def stalling() -> Iterator[bytes]:
        parts = chunks(total, charter, frames=1)
        yield next(parts)
        begun.set()
        assert go_on.wait(60)
        yield from parts

    def ask() -> None:
        answers.append(decryptor.answer(charter, 1, sum_digest=digest(total), chunks=stalling()))

    stalled = threading.Thread(target=ask)
    stalled.start()
    assert begun.wait(60)
    document = charter.document() | {"name": f"{charter.name}-other"}
    other = parse_charter(complete(document))
    elsewhere = contribute_all(federation, tmp_path / "elsewhere", charter=other)
    ask_decryptor(decryptor, other, summed(other, elsewhere))
    assert stalled.is_alive()
    go_on.set()
    stalled.join()
    assert answers == [ask_decryptor(decryptor, charter, total)]


def test_no_sum_is_decrypted_before_all_of_it_is_here(
    federation: Federation, decryptor: DecryptorService, total: bytes
) -> None:
    """Whether numbers are integers is told for whole sums only, and is counted."""
    charter = federation.charter
    numbers = encrypt_reals(federation, charter, 0.5)
    size = charter.secure_sum.frame_bytes
    for _ in range(REFUSALS_ALLOWED + 1):
        with pytest.raises(CiphertextRefused):
            decryptor.answer(charter, 1, sum_digest=digest(b"x"), chunks=iter([numbers]))
        with pytest.raises(CiphertextRefused):
            decryptor.answer(charter, 1, sum_digest=digest(b"x"), chunks=iter([numbers[:size]]))
    ask_decryptor(decryptor, charter, total)


def test_sums_that_are_no_integers_are_refused_and_soon_for_good(
    federation: Federation, decryptor: DecryptorService, total: bytes
) -> None:
    charter = federation.charter
    size = charter.secure_sum.frame_bytes
    before = _files(federation.state("decryptor"))
    for number in range(REFUSALS_ALLOWED):
        # Only the last frame shows it.
        wrong = total[:-size] + encrypt_reals(federation, charter, number + 0.5)[:size]
        with pytest.raises(NotAnInteger):
            ask_decryptor(decryptor, charter, wrong)
    assert _files(federation.state("decryptor")) == before
    with pytest.raises(TooManyRefusals):
        ask_decryptor(decryptor, charter, total)
    with pytest.raises(RoundOutOfOrder):
        ask_decryptor(decryptor, charter, total, round_number=2)


def test_refuses_a_charter_that_pins_another_key(
    federation: Federation, decryptor: DecryptorService, total: bytes
) -> None:
    named = federation.charter.custodians.decryptor.model_copy(
        update={"context_digest": digest(b"another context")}
    )
    custodians = federation.charter.custodians.model_copy(update={"decryptor": named})
    with pytest.raises(CharterRefused):
        ask_decryptor(
            decryptor, federation.charter.model_copy(update={"custodians": custodians}), total
        )


def test_prepare_makes_keys_once(federation: Federation, tmp_path: Path) -> None:
    state = StateDirectory.create(tmp_path, Identity("testfed", Role.DECRYPTOR, "new"))
    made = prepare(state)
    public = state.read(public_context_path(state))
    assert made == digest(public)
    PublicContext(public, federation.charter.secure_sum)
    assert stat.S_IMODE(secret_path(state, FIRST).stat().st_mode) == 0o600
    with pytest.raises(StateError):
        prepare(state)
    assert state.read(public_context_path(state)) == public


def test_needs_prepared_keys(federation: Federation, tmp_path: Path) -> None:
    shutil.copytree(federation.state("decryptor").root, tmp_path / "copy")
    state = StateDirectory.open(tmp_path / "copy", Role.DECRYPTOR)
    public_context_path(state).unlink()
    with pytest.raises(StateError):
        DecryptorService(state)
