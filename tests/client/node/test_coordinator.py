"""Answers from an aggregator that breaks the contract, and receipts for something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from support.federation import Federation, make_federation
from support.relay import Parts, Relay, running_relay
from support.site import Site, site_of
from support.sums import contribute

from fedhelp_client.node.coordinator import ReceiptRefused
from fedhelp_secure.errors import MalformedMessage, SignatureRefused
from fedhelp_secure.secure_sum.bodies import AnswerRefused
from fedhelp_secure.wire.v1 import coordinator_pb2 as wire
from fedhelp_secure.wire.v1.evidence_pb2 import Receipt


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    root = tmp_path_factory.mktemp("coordinator")
    return make_federation(root / "parties", large=1, small=1, unmaskers=2)


def _contribute_all(federation: Federation, address: str, folder: Path) -> Site:
    for hospital in federation.charter.hospitals:
        site = site_of(federation, hospital.name, address)
        made = contribute(federation, hospital.name, folder / hospital.name)
        site.releaser.coordinator.contribute(1, made)
    return site


def _longer(parts: Parts) -> Parts:
    return [*parts, wire.FetchTeacherResponse(body_chunk=b"x")]


def _headless(parts: Parts) -> Parts:
    return parts[1:]


def _one_less(parts: Parts) -> Parts:
    return parts[:-2]


def _one_more(parts: Parts) -> Parts:
    return [*parts, parts[0]]


def _swapped(parts: Parts) -> Parts:
    return [*parts[:2], *parts[4:], *parts[2:4]]


def _shortened(parts: Parts) -> Parts:
    last = wire.FetchTeacherResponse(body_chunk=parts[-1].body_chunk[:-1])
    return [*parts[:-1], last]


@pytest.mark.parametrize(
    ("alter", "error", "sentence"),
    [
        (_longer, MalformedMessage, "longer than"),
        (_headless, MalformedMessage, "longer than"),
        (_one_less, MalformedMessage, "one answer of each"),
        (_one_more, MalformedMessage, "one answer of each"),
        (_shortened, AnswerRefused, "altered"),
        (_swapped, SignatureRefused, "sign"),
    ],
)
def test_answers_that_are_not_the_charters_are_refused_and_not_kept(
    federation: Federation,
    tmp_path: Path,
    alter: Callable[[Parts], Parts],
    error: type[Exception],
    sentence: str,
) -> None:
    with running_relay(federation, tmp_path / "relay") as (relay, address):
        site = _contribute_all(federation, address, tmp_path)
        coordinator = site.releaser.coordinator
        assert (coordinator.fetch_sum(1).values == federation.charter.total_weight).all()
        relay.alter_parts = alter
        with pytest.raises(error, match=sentence):
            coordinator.fetch_sum(1)
    assert not (site.state.role_directory() / "answers").exists()


def test_what_a_crash_left_of_answers_is_gone_after_the_next(
    federation: Federation, tmp_path: Path
) -> None:
    with running_relay(federation, tmp_path / "relay") as (_, address):
        site = _contribute_all(federation, address, tmp_path)
        left = site.state.role_directory() / "answers" / "9.body"
        left.parent.mkdir()
        left.write_bytes(b"x")
        site.releaser.coordinator.fetch_sum(1)
    assert not left.exists()


def test_a_receipt_for_another_contribution_is_refused(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = federation.charter.hospitals[0].name
    with running_relay(federation, tmp_path / "relay") as (_, address):
        site = site_of(federation, name, address)
        first = site.releaser.coordinator.contribute(
            1, contribute(federation, name, tmp_path / "first")
        )
        monkeypatch.setattr(
            Relay, "Contribute", lambda self, requests, context: _drained(requests, context, first)
        )
    with running_relay(federation, tmp_path / "again") as (_, address):
        site = site_of(federation, name, address)
        with pytest.raises(ReceiptRefused, match="not for what this hospital sent"):
            site.releaser.coordinator.contribute(
                1, contribute(federation, name, tmp_path / "second")
            )


def _drained(
    requests: Iterator[wire.ContributeRequest], context: grpc.ServicerContext, receipt: Receipt
) -> wire.ContributeResponse:
    context.send_initial_metadata(())
    list(requests)
    return wire.ContributeResponse(receipt=receipt)


def test_a_long_ciphertext_goes_in_whole_frames_of_at_most_a_mebibyte(tmp_path: Path) -> None:
    federation = make_federation(
        tmp_path / "parties",
        large=1,
        small=1,
        privacy={"mechanism": "rehearsal"},
        secure_sum={"values": 80_000},
    )
    secure_sum = federation.charter.secure_sum
    assert secure_sum.frames > 16
    with running_relay(federation, tmp_path / "relay") as (relay, address):
        site = _contribute_all(federation, address, tmp_path)
        opened = site.releaser.coordinator.fetch_sum(1)
    assert max(relay.chunk_sizes) == 1 << 20
    assert all(size % secure_sum.frame_bytes == 0 for size in relay.chunk_sizes)
    np.testing.assert_array_equal(opened.values, federation.charter.total_weight)
