"""A broker process from its files, and its operator's verdict on an indeterminate call."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Literal

from fedhelp_secure.charter import Charter
from fedhelp_secure.enrolment.renewal import upkeep_of
from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.foundation_model import (
    MAXIMUM_EARLIER,
    REASON_LIMIT,
    Batch,
    batch_key,
    batch_sizes,
    idempotency_key,
    repeatable,
)
from fedhelp_secure.keystore.files import make_directory
from fedhelp_secure.public_set import PublicSet
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.state import KeyNotHeld, StateDirectory
from fedhelp_secure.transport.identity import Role
from fedhelp_secure.transport.server import serve_until_signal, start_server
from fedhelp_secure.trust.charters import open_own_charter
from fedhelp_secure.wire.v1.broker_pb2_grpc import add_BrokerServicer_to_server
from fedhelp_server.broker.call import OneCall
from fedhelp_server.broker.ceiling import Ceiling
from fedhelp_server.broker.credentials import read_credential
from fedhelp_server.broker.egress import EgressRules
from fedhelp_server.broker.journal import Journal, StateLock
from fedhelp_server.broker.providers import make_provider
from fedhelp_server.broker.recorder import Recorder
from fedhelp_server.broker.service import Broker
from fedhelp_server.broker.states import CallState
from fedhelp_server.broker.steps import Intent
from fedhelp_server.broker.submission import Submitter

Verdict = Literal["not-called", "abandoned"]


class NotThisBroker(ConfigurationError):
    """The charter names another broker than the one whose state this is."""

    code = "not-this-broker"


class NothingToResolve(ConfigurationError):
    """The charter's call is not indeterminate."""

    code = "nothing-to-resolve"


class ReasonRefused(ConfigurationError):
    """The operator's reason is empty, too long or not one line of text."""

    code = "resolve-reason"


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """What ``fedhelp broker run`` is given."""

    charter: Path
    public_set: Path
    listen: str
    rules: EgressRules
    ceiling: Ceiling
    credential_file: Path | None
    credential: str | None
    """Name of a systemd credential."""
    model_file: Path | None
    aggregator: str | None
    ready_file: Path | None
    registrar: str | None = None


def parse_amount(text: str | None, option: str) -> Decimal | None:
    """A non-negative decimal, or None for None; raises ConfigurationError naming ``option``."""
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        raise ConfigurationError(f"{option} takes a decimal, for example 2.50.")
    return Decimal(text)


def run(state_path: Path, options: BrokerOptions) -> None:
    """Serve one charter's answer until SIGTERM or SIGINT.

    Raises StateError, NotThisBroker, CharterRefused, PublicSetRefused, CredentialRefused,
    EgressMisconfigured, LocalModelRefused, CeilingReached, JournalBusy, JournalDamaged or
    ListenFailed, before anything is served.
    """
    state = StateDirectory.open(state_path, Role.BROKER)
    charter = _charter(state, options.charter)
    public_set = PublicSet.load(options.public_set)
    public_set.check(charter)
    provider = make_provider(
        charter,
        options.rules,
        credential=read_credential(options.credential_file, options.credential),
        model_file=options.model_file,
    )
    lock = StateLock(state.role_directory())
    try:
        journal = _journal(state, charter)
        submitter = (
            None
            if options.aggregator is None
            else Submitter(state, charter, journal, aggregator=options.aggregator)
        )
        call = OneCall(
            charter,
            public_set.images,
            journal=journal,
            key=_key(state, charter),
            provider=provider,
            ceiling=options.ceiling,
            concluded=(lambda: None) if submitter is None else submitter.wake,
        )
        service = Broker(charter, call)
        server = start_server(
            state,
            options.listen,
            register=lambda server: add_BrokerServicer_to_server(service, server),
        )
        if submitter is not None:
            submitter.start()
        try:
            with upkeep_of(state, options.registrar):
                serve_until_signal(server, options.ready_file)
        finally:
            provider.close()
            if submitter is not None:
                submitter.stop()
            call.wait()
    finally:
        lock.release()


def resolve(state_path: Path, charter_path: Path, *, verdict: Verdict, reason: str) -> CallState:
    """Put the operator's ``verdict`` on an indeterminate call on the record; the state after it.

    ``not-called`` allows a new call, ``abandoned`` rules one out for good. Raises NothingToResolve,
    ReasonRefused, and what `run` raises for the files.
    """
    if not reason.strip() or len(reason) > REASON_LIMIT or not reason.isprintable():
        raise ReasonRefused(f"--reason must be one line of 1 to {REASON_LIMIT} characters.")
    state = StateDirectory.open(state_path, Role.BROKER)
    charter = _charter(state, charter_path)
    lock = StateLock(state.role_directory())
    try:
        journal = _journal(state, charter)
        recorder = Recorder(charter, journal, _key(state, charter))
        # What may be sent again is not lost: starting the broker goes on with it.
        recorder.settle_interrupted(repeatable=repeatable(charter))
        if journal.state is not CallState.INDETERMINATE:
            raise NothingToResolve(
                f"the charter's call is {journal.state.value}, not indeterminate: "
                "there is nothing to resolve."
            )
        if verdict == "not-called" and len(journal.earlier) >= MAXIMUM_EARLIER:
            raise NothingToResolve(
                f"the call was found not to have left {MAXIMUM_EARLIER} times already; "
                "abandon it and mend the connection."
            )
        recorder.conclude(verdict, reason=reason)
        return journal.state
    finally:
        lock.release()


@dataclass(frozen=True, slots=True)
class Status:
    """Where a call stands, for its operator."""

    state: CallState
    intent: Intent | None
    batches: tuple[Batch, ...]
    of_batches: int
    idempotency_key: str
    """Of the batch that was sent last, as the provider has seen it; of the call if none was."""
    reason: str
    """Of the newest outcome, if there is one."""
    logged: bool
    """Whether the evidence log has the final record."""


def status(state_path: Path, charter_path: Path) -> Status:
    """What the journal says; changes nothing, and the broker may be running.

    Raises what `run` raises for the files.
    """
    state = StateDirectory.open(state_path, Role.BROKER)
    charter = _charter(state, charter_path)
    journal = _journal(state, charter, make=False)
    key = idempotency_key(charter)
    return Status(
        state=journal.state,
        intent=None if journal.state is CallState.READY else journal.intent,
        batches=journal.batches,
        of_batches=len(batch_sizes(charter)),
        idempotency_key=batch_key(key, len(journal.batches)) if journal.batches else key,
        reason=journal.last_record().reason if journal.outcomes else "",
        logged=journal.receipt_path.exists(),
    )


def _charter(state: StateDirectory, path: Path) -> Charter:
    try:
        envelope = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read; give the charter's file.") from error
    charter = open_own_charter(state, envelope).charter
    _key(state, charter)
    return charter


def _key(state: StateDirectory, charter: Charter) -> SigningKey:
    """This broker's key that ``charter`` names; raises NotThisBroker."""
    ours = (state.identity.federation, state.identity.name)
    try:
        if ours != (charter.federation, charter.broker.name):
            raise KeyNotHeld("another broker is named.")
        return state.signing_key_for(charter.broker.verifying_key())
    except KeyNotHeld as error:
        raise NotThisBroker(
            "the charter names another broker; give this broker's charter, or the right --state."
        ) from error


def _journal(state: StateDirectory, charter: Charter, *, make: bool = True) -> Journal:
    directory = state.role_directory() / "calls" / idempotency_key(charter)
    if make:
        make_directory(directory)
    # A call's record is signed with the key that its charter names, and its answer is sealed to the
    # key beside it: a call that was begun before a rotation ends under the keys it began with.
    key = charter.broker.verifying_key()
    return Journal(directory, key, state.unsealing_key_beside(key))
