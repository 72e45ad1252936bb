"""Every party rotates its keys under a running charter: no round is lost, the next has new keys.

Real processes throughout: registrar, custodians, aggregator and broker serve, hospitals release and
debit (`support.hospital`), and everything that an operator does is a command.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.deployment import PATIENCE_SECONDS, Deployment, deployed, succeed, wait_until
from support.processes import context_file
from support.site import PUBLIC_SET

from fedhelp_client.node.coordinator import Coordinator
from fedhelp_client.node.files import ReleaseFiles
from fedhelp_secure.charter import open_charter
from fedhelp_secure.enrolment.key_rotation import rotate_keys
from fedhelp_secure.evidence.budget import audit_budget
from fedhelp_secure.evidence.verify import verify_bundle
from fedhelp_secure.privacy.events import KIND as LEDGER_KIND
from fedhelp_secure.secure_sum.contribution import KIND
from fedhelp_secure.signing import SigningKey, VerifyingKey, peek_document
from fedhelp_secure.state import KeyNotHeld, StateDirectory
from fedhelp_secure.transport.client import PeerRefused, open_channel
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.refresh import refresh_trust_list
from fedhelp_secure.wire.v1.coordinator_pb2 import WatchRoundsRequest
from fedhelp_secure.wire.v1.coordinator_pb2_grpc import CoordinatorStub
from fedhelp_server.foundation_model.certificate import make_certificate

SERVERS = (Role.DECRYPTOR, Role.UNMASKER, Role.AGGREGATOR, Role.BROKER)
HOSPITALS = ("large-1", "small-1", "small-2")
PLAN = """
name: second
task: classification
classes: [benign, malignant]
hospitals: [large-1, small-1, small-2]
weights: {large: 2, small: 1}
privacy: {epsilon: "8", delta: "1e-6", clip: "0.8", maximum_patients: 500}
secure_sum: {fraction_bits: 12}
probe: {dimension: 4, ridge: "0.1", step: "1.0", nominal_patients: 50}
cohort: {minimum: 2, colluders: 1, minimum_large: 1, minimum_small: 1}
rounds: {count: 1, deadline_seconds: 600}
foundation_model: {purpose: proxy-embeddings, url: "https://127.0.0.1:9000", model: dinov2-small}
retention_days: 365
"""


@dataclass(frozen=True, slots=True)
class Finished:
    """Two charters that the same states have run, and what an auditor exported of each."""

    first: Deployment
    second: Deployment
    bundles: dict[str, Path]
    """By the charter's name."""
    old: dict[str, SigningKey]
    """Every party's signing key of the first charter."""
    refused: str
    """What the aggregator said to a manifest under the second charter, signed with the old key."""


class Hospitals:
    """The hospitals' processes under one charter."""

    def __init__(self, deployment: Deployment, ending: ExitStack) -> None:
        self._deployment = deployment
        self._ending = ending
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.out = deployment.directory / f"collected-{deployment.federation.charter.name}"

    def start(self, name: str) -> None:
        """One hospital, which takes part in all rounds."""
        deployment = self._deployment
        arguments = (
            str(deployment.federation.state(name).root),
            str(context_file(deployment.federation)),
            deployment.addresses[Role.AGGREGATOR],
            deployment.addresses[Role.REGISTRAR],
            str(self.out),
        )
        log = (deployment.directory / f"{self.out.name}-{name}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "support.hospital", *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        self._ending.callback(log.close)
        self._ending.callback(process.wait)
        self._ending.callback(process.kill)
        self._running[name] = process

    def finish(self) -> None:
        """Returns when all of them have ended well."""
        deadline = time.monotonic() + 4 * PATIENCE_SECONDS
        while any(process.poll() is None for process in self._running.values()):
            # One that has failed keeps the others waiting.
            self._check()
            assert time.monotonic() < deadline, "the rounds did not end"
            time.sleep(0.1)
        self._check()

    def _check(self) -> None:
        for name, process in self._running.items():
            log = self._deployment.directory / f"{self.out.name}-{name}.log"
            assert process.poll() in (None, 0), log.read_text()


def rotate_all(deployment: Deployment) -> None:
    """Every party but the registrar: one by its command, the others as the command does it."""
    federation, address = deployment.federation, deployment.addresses[Role.REGISTRAR]
    by_command = str(federation.state("large-1").root)
    said = succeed("enrol", "rotate-keys", "--state", by_command, "--registrar", address)
    assert "has keys of generation 2" in said
    for name, state in federation.states.items():
        if name not in ("large-1", "registrar"):
            rotate_keys(state, address)


def _follows(state: StateDirectory, key: VerifyingKey) -> bool:
    return state.governance_key() == key


def rotate_governance(deployment: Deployment) -> None:
    """By command; returns when those have followed that poll the registrar."""
    before = deployment.registrar.governance_key()
    said = succeed("keys", "governance", "rotate", "--state", str(deployment.registrar.root))
    after = deployment.registrar.governance_key()
    assert after.to_base64() in said
    assert after != before
    for party in (*SERVERS, *HOSPITALS[:2]):
        state = deployment.federation.state(party)
        wait_until(functools.partial(_follows, state, after))
    # The others have not been started, and are told.
    for party in (HOSPITALS[2], Role.AUDITOR):
        state = deployment.federation.state(party)
        refresh_trust_list(state, deployment.addresses[Role.REGISTRAR])
        assert state.governance_key() == after


def export(deployment: Deployment, hospitals: Hospitals) -> Path:
    """The auditor's bundle, by command."""
    federation = deployment.federation
    bundle = deployment.directory / f"bundle-{federation.charter.name}"
    succeed(
        *("audit", "export", "--state", str(federation.state(Role.AUDITOR).root)),
        *("--aggregator", deployment.addresses[Role.AGGREGATOR]),
        *("--charter", str(federation.charter_file())),
        *("--ledgers", str(hospitals.out / "ledgers")),
        *("--receipts", str(hospitals.out / "receipts"), "--out", str(bundle)),
    )
    return bundle


def second_charter(first: Deployment) -> Deployment:
    """The next charter, made by command; aggregator and broker begin with it, custodians go on."""
    federation, directory = first.federation, first.directory
    for role in (Role.AGGREGATOR, Role.BROKER):
        first.running[role].process.terminate()
        assert first.running[role].process.wait(timeout=PATIENCE_SECONDS) == 0, first.log(role)
    aggregator = federation.state(Role.AGGREGATOR)
    # An aggregator's rounds and log are of one charter.
    (aggregator.root / "aggregator").rename(aggregator.root / "first-charter")
    plan, public_set = directory / "plan.yaml", directory / "second-public-set.npz"
    plan.write_text(PLAN)
    PUBLIC_SET.save(public_set)
    file = directory / "second.json"
    succeed(
        *("keys", "charter", "--state", str(first.registrar.root), "--config", str(plan)),
        *("--public-set", str(public_set), "--out", str(file)),
    )
    envelope, governance_key = file.read_bytes(), first.registrar.signing_key()
    federation = dataclasses.replace(
        federation,
        charter=open_charter(envelope, governance_key.public),
        charter_envelope=envelope,
        governance_key=governance_key,
    )
    second = dataclasses.replace(first, federation=federation)
    second.serve_aggregator()
    certificate, _ = make_certificate(directory / "second-foundation-model")
    second.serve(
        Role.BROKER,
        *("broker", "run", "--charter", str(federation.charter_file())),
        *("--public-set", str(public_set), "--ca", str(certificate)),
    )
    return second


def refusal_of_the_old_key(second: Deployment, old: SigningKey) -> str:
    """What becomes of large-1's manifest when the key of the first charter signs it."""
    federation = second.federation
    state = federation.state("large-1")
    coordinator = Coordinator(state, federation.charter, second.addresses[Role.AGGREGATOR])
    stored = ReleaseFiles.of_charter(state, federation.charter.digest).stored(1)
    assert stored is not None
    assert coordinator.contribute(1, stored)
    forged = old.sign_document(KIND, peek_document(KIND, stored.manifest))
    with pytest.raises(PeerRefused) as refused:
        coordinator.contribute(1, dataclasses.replace(stored, manifest=forged))
    return refused.value.code


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    directory = tmp_path_factory.mktemp("rotation")
    rounds = {"count": 2, "deadline_seconds": 600}
    with ExitStack() as ending:
        first = ending.enter_context(deployed(directory, servers=SERVERS, rounds=rounds))
        old = {name: state.signing_key() for name, state in first.federation.states.items()}
        hospitals = Hospitals(first, ending)
        for name in HOSPITALS[:2]:
            hospitals.start(name)
        wait_until_contributed(first, 2)
        rotate_all(first)
        rotate_governance(first)
        # The first round has waited for this one, which begins with other keys than the charter's.
        hospitals.start(HOSPITALS[2])
        hospitals.finish()
        bundles = {"tiny": export(first, hospitals)}
        second = second_charter(first)
        hospitals = Hospitals(second, ending)
        for name in HOSPITALS:
            hospitals.start(name)
        hospitals.finish()
        bundles["second"] = export(second, hospitals)
        refused = refusal_of_the_old_key(second, old["large-1"])
        yield Finished(first, second, bundles, old, refused)


def test_no_round_of_the_running_charter_is_lost(finished: Finished) -> None:
    verdict = verify_bundle(finished.bundles["tiny"], governance_key=governance_of(finished.first))
    found = {step.title: step.finding for step in verdict.steps}
    assert found["rounds"] == "2 opened over a cohort, 0 failed"
    assert found["manifests"].startswith("6 contributions")
    assert found["witnesses"].startswith("3 of 3 hospitals and 1 auditors cosigned")


def test_the_next_charter_names_the_new_keys_and_runs_with_the_same_states(
    finished: Finished,
) -> None:
    charter = finished.second.federation.charter
    old = {key.public for key in finished.old.values()}
    named = [hospital.verifying_key() for hospital in charter.hospitals]
    named += [party.verifying_key() for party in charter.signed_parties()]
    assert len(named) == 8
    assert not old & set(named)
    assert governance_of(finished.second) != governance_of(finished.first)
    first = finished.first.federation.charter
    sealed_to = {hospital.sealing_key for hospital in first.hospitals}
    assert not sealed_to & {hospital.sealing_key for hospital in charter.hospitals}
    verdict = verify_bundle(
        finished.bundles["second"], governance_key=governance_of(finished.second)
    )
    found = {step.title: step.finding for step in verdict.steps}
    assert found["rounds"] == "1 opened over a cohort, 0 failed"
    assert found["witnesses"].startswith("3 of 3 hospitals and 1 auditors cosigned")


def test_one_ledger_goes_on_through_both_charters(finished: Finished) -> None:
    second = finished.second.federation.charter.digest
    first = finished.first.federation.charter.digest
    for name, bundle in finished.bundles.items():
        audit = audit_budget(bundle)
        spent = {(one.hospital, one.charter): one.rounds for one in audit.budgets}
        for hospital in HOSPITALS:
            assert spent[hospital, first] == (1, 2)
            assert spent.get((hospital, second)) == (None if name == "tiny" else (1,))
    lines = (finished.bundles["second"] / "ledgers" / "large-1.jsonl").read_bytes().splitlines()
    said = [peek_document(LEDGER_KIND, line)["status"] for line in lines]
    assert said.count("succeeded") == 1
    # The one that contributed before the rotation was handed over within its first round.
    assert said[:3] == ["reserved", "sent", "succeeded"]


def test_an_old_key_counts_for_nothing_under_the_new_charter(finished: Finished) -> None:
    assert finished.refused == "signature"


def test_old_keys_are_destroyed_and_the_new_charter_goes_on(finished: Finished) -> None:
    federation = finished.second.federation
    for name in ("large-1", "aggregator"):
        state = federation.state(name)
        said = succeed("enrol", "destroy-old-keys", "--state", str(state.root))
        assert "private keys of generation 1" in said
        with pytest.raises(KeyNotHeld):
            state.signing_key_for(finished.old[name].public)
    stored = ReleaseFiles.of_charter(federation.state("large-1"), federation.charter.digest)
    address = finished.second.addresses[Role.AGGREGATOR]
    sent = stored.stored(1)
    assert sent is not None
    coordinator = Coordinator(federation.state("large-1"), federation.charter, address)
    assert coordinator.fetch_sum(1).hospitals == HOSPITALS


def governance_of(deployment: Deployment) -> VerifyingKey:
    return deployment.federation.governance_key.public


def wait_until_contributed(deployment: Deployment, count: int) -> None:
    """Returns when the first round has so many contributions, and waits for more."""
    state, charter = deployment.federation.state(Role.AUDITOR), deployment.federation.charter
    expected = Identity(charter.federation, Role.AGGREGATOR, "aggregator")
    request = WatchRoundsRequest(charter_digest=charter.digest, session=os.urandom(16))
    with open_channel(state, deployment.addresses[Role.AGGREGATOR], expected=expected) as channel:
        stream = CoordinatorStub(channel).WatchRounds(request, timeout=2 * PATIENCE_SECONDS)
        assert any(event.round == 1 and event.contributions == count for event in stream)
        stream.cancel()
