"""One aggregator, put together: what is checked before it serves, and in what order it stops."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import grpc

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.evidence.log import EvidenceLog, log_origin
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.state import KeyNotHeld, StateDirectory
from fedhelp_secure.trust.charters import open_own_charter
from fedhelp_secure.wire.v1.coordinator_pb2_grpc import add_CoordinatorServicer_to_server
from fedhelp_secure.wire.v1.evidence_pb2_grpc import add_EvidenceServicer_to_server
from fedhelp_server.aggregator.blobs import open_blobs
from fedhelp_server.aggregator.book import Book
from fedhelp_server.aggregator.certificates import Certificates
from fedhelp_server.aggregator.coordinator import Coordinator
from fedhelp_server.aggregator.custodians import CustodianAddresses, Custodians
from fedhelp_server.aggregator.driver import Driver
from fedhelp_server.aggregator.evidence_service import Evidence
from fedhelp_server.aggregator.journal import Journal
from fedhelp_server.aggregator.limits import capacity
from fedhelp_server.aggregator.store import Store
from fedhelp_server.aggregator.turns import Turns
from fedhelp_server.aggregator.uploads import Uploads


class WrongAggregator(ConfigurationError):
    """The state directory is not that of the charter's aggregator."""

    code = "wrong-aggregator"


class WrongCustodians(ConfigurationError):
    """The addresses are not those of the charter's custodians."""

    code = "wrong-custodians"


class Aggregator:
    """Everything of one aggregator but its listening socket."""

    def __init__(
        self,
        state: StateDirectory,
        charter_file: Path,
        addresses: CustodianAddresses,
        *,
        blobs_url: str | None = None,
        turns: Turns | None = None,
    ) -> None:
        """Open the state and make up for a crash.

        ``charter_file`` holds the charter's DSSE envelope; ``turns`` are `Turns`'s own by default.
        Raises SignatureRefused or
        CharterRefused for it, WrongAggregator, WrongCustodians, NoBlobStore, StateError if the
        state belongs to another charter, LogInUse if it is being served already.
        """
        envelope = _read(charter_file)
        charter = open_own_charter(state, envelope).charter
        _own_key(state, charter)
        _check_addresses(addresses, charter)
        self.room = capacity(charter)
        with contextlib.ExitStack() as opened:
            self._open(state, charter, opened, blobs_url)
            self._assemble(
                state, charter, envelope=envelope, addresses=addresses, turns=turns or Turns()
            )
            self._opened = opened.pop_all()

    def _open(
        self,
        state: StateDirectory,
        charter: Charter,
        opened: contextlib.ExitStack,
        blobs_url: str | None,
    ) -> None:
        """Open what is on disk, in an order that a second process does not get past."""
        directory = state.role_directory()
        log = EvidenceLog.open(
            directory / "log", origin=log_origin(charter), signing_key=_own_key(state, charter)
        )
        # The log's lock is held from here on: nobody else writes to store or blobs.
        opened.callback(log.close)
        self._store = Store(
            directory / "rounds.sqlite3",
            charter_digest=charter.digest,
            rounds=charter.rounds.count,
        )
        opened.callback(self._store.close)
        self._blobs = open_blobs(blobs_url, directory / "blobs", charter_digest=charter.digest)
        self._blobs.sweep(self._store.blob_digests())
        self._journal = Journal(self._store, log)
        self._book = Book(charter, self._journal, self._blobs)

    def _assemble(
        self,
        state: StateDirectory,
        charter: Charter,
        *,
        envelope: bytes,
        addresses: CustodianAddresses,
        turns: Turns,
    ) -> None:
        uploads = Uploads(
            charter, self._book, blobs=self._blobs, total=self.room.uploads, turns=turns
        )
        certificates = Certificates(state, self._journal)
        self._coordinator = Coordinator(
            charter,
            envelope,
            book=self._book,
            journal=self._journal,
            blobs=self._blobs,
            uploads=uploads,
            certificates=certificates,
            room=self.room,
        )
        self._evidence = Evidence(charter, self._journal, certificates=certificates, room=self.room)
        self._driver = Driver(
            charter,
            self._book,
            store=self._store,
            blobs=self._blobs,
            custodians=Custodians(state, charter, envelope=envelope, addresses=addresses),
        )

    @property
    def failed(self) -> bool:
        """Whether the rounds ended with an error that only a restart can mend."""
        return self._driver.failed

    def register(self, server: grpc.Server) -> None:
        """Add both services to ``server``."""
        add_CoordinatorServicer_to_server(self._coordinator, server)
        add_EvidenceServicer_to_server(self._evidence, server)

    def start(self, on_failure: Callable[[], None]) -> None:
        """Move the rounds on from where they are; see `Driver.start`."""
        self._driver.start(on_failure)

    def stop(self) -> None:
        """End the watches and the rounds' thread; call it before the server is stopped."""
        self._driver.stop()

    def close(self) -> None:
        """Close store and log; call it last."""
        self._opened.close()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read; give the path of that file.") from error


def _own_key(state: StateDirectory, charter: Charter) -> SigningKey:
    """This aggregator's key that ``charter`` names; raises WrongAggregator."""
    own = charter.aggregator
    named = (charter.federation, own.name)
    if named != (state.identity.federation, state.identity.name):
        raise WrongAggregator(
            "the charter names another aggregator than this --state directory's; give the charter "
            "and the state that belong together."
        )
    try:
        return state.signing_key_for(own.verifying_key())
    except KeyNotHeld as error:
        raise WrongAggregator(
            "the charter names another signing key for this aggregator; enrol it again and ask the "
            "registrar for a new charter."
        ) from error


def _check_addresses(addresses: CustodianAddresses, charter: Charter) -> None:
    unmaskers = [unmasker.name for unmasker in charter.custodians.unmaskers]
    if len(addresses.unmaskers) != len(unmaskers):
        raise WrongCustodians(
            f"the charter names {len(unmaskers)} unmaskers; give the address of each with "
            f"--unmasker, in this order: {', '.join(unmaskers)}."
        )
