"""Exporting from a real aggregator over mTLS, signing, and the command line."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from support.aggregator import AggregatorServer, addresses_of, charter_of, custodians_of
from support.evidence import Story, call_record
from support.federation import Federation, join
from support.keys import keys_of_stores
from support.sums import contribute
from typer.testing import CliRunner

from fedhelp_secure.canonical import digest
from fedhelp_secure.errors import FedHelpError, PeerError
from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.bundle import (
    BundleExists,
    NotAnAuditor,
    OtherCharter,
    Sources,
    export_bundle,
    sign_index,
)
from fedhelp_secure.evidence.checkpoint import Checkpoint, sign_checkpoint
from fedhelp_secure.evidence.commands import app
from fedhelp_secure.evidence.layout import BundleRefused
from fedhelp_secure.evidence.log import log_origin
from fedhelp_secure.evidence.verify import StepFailed, verify_bundle
from fedhelp_secure.evidence.witness import HistoryRefused, LogWitness
from fedhelp_secure.foundation_model import KIND as CALL_KIND
from fedhelp_secure.privacy.ledger import Ledger
from fedhelp_secure.report.build import ResultRefused, read_results
from fedhelp_secure.report.complete import complete_bundle
from fedhelp_secure.report.model import NodeResult
from fedhelp_secure.state import StateDirectory, StateError
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.transport.server import start_server
from fedhelp_secure.wire.v1 import evidence_pb2 as wire
from fedhelp_secure.wire.v1.coordinator_pb2 import (
    ROUND_STATE_OPEN,
    ROUND_STATE_OPENED,
    GetCharterRequest,
    GetCharterResponse,
)
from fedhelp_secure.wire.v1.coordinator_pb2_grpc import (
    CoordinatorServicer,
    add_CoordinatorServicer_to_server,
)
from fedhelp_secure.wire.v1.evidence_pb2_grpc import (
    EvidenceServicer,
    add_EvidenceServicer_to_server,
)
from fedhelp_server.aggregator.custodians import CustodianAddresses


@dataclass(frozen=True, slots=True)
class Finished:
    """A federation whose aggregator still serves, and what its hospitals hand to the auditor."""

    federation: Federation
    sources: Sources
    results: Path

    @property
    def auditor(self) -> StateDirectory:
        return self.federation.state(Role.AUDITOR)


@pytest.fixture(scope="module")
def finished(
    federation: Federation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Finished]:
    root = tmp_path_factory.mktemp("exported")
    chosen = charter_of(federation, "exported", rounds={"count": 1})
    named = dataclasses.replace(federation, charter=chosen[0], charter_envelope=chosen[1])
    for folder in ("ledgers", "receipts", "results"):
        (root / folder).mkdir()
    with custodians_of(federation) as (decryptor, *unmaskers):
        addresses = CustodianAddresses(
            decryptor.address, tuple(unmasker.address for unmasker in unmaskers)
        )
        with AggregatorServer(named, root, chosen, addresses) as server:
            _run_round(named, server, root)
            sources = Sources(
                server.address, root / "charter.json", root / "ledgers", root / "receipts"
            )
            yield Finished(named, sources, root / "results")


def _run_round(federation: Federation, server: AggregatorServer, root: Path) -> None:
    charter = federation.charter
    ledgers = {}
    server.party("small-1").wait_for(ROUND_STATE_OPEN)
    for hospital in charter.hospitals:
        name = hospital.name
        key = federation.state(name).signing_key()
        ledger = Ledger.open(root / f"{name}.sqlite", hospital=name, signing_key=key)
        part = contribute(
            federation,
            name,
            root / f"{name}.ciphertext",
            release=np.ones(charter.secure_sum.values, dtype=np.int64),
            ledger_entry_digest=ledger.reserve(charter, 1).digest,
            round_keys=keys_of_stores(federation, charter),
        )
        receipt = server.party(name).contribute(part)
        ledger.record(charter, 1, "sent", contribution_digest=digest(part.manifest))
        ledger.export(root / "ledgers" / f"{name}.jsonl")
        path = root / "receipts" / f"{name}-1.bin"
        path.write_bytes(receipt.SerializeToString(deterministic=True))
        ledgers[name] = ledger
    broker = federation.state(Role.BROKER).signing_key()
    record = broker.sign_document(CALL_KIND, call_record(charter))
    server.party(Role.BROKER).submit(CALL_KIND, record)
    server.party("small-1").wait_for(ROUND_STATE_OPENED)
    for name in ledgers:
        LogWitness(federation.state(name), charter).cosign_newest(server.party(name).evidence)
    (root / "results" / "small-1.json").write_text(json.dumps(result_of("small-1")))


def result_of(name: str, **changes: object) -> dict[str, object]:
    """What a node would leave."""
    return {
        "hospital": name,
        "group": name.partition("-")[0],
        "task": "classification",
        "metric": "accuracy",
        "alone": 0.5,
        "distilled": 0.625,
        "head_alone": None,
        "head": None,
        "epsilon_aggregate": 1.0,
        "epsilon_collusion": 2.0,
    } | changes


def test_an_exported_bundle_is_reported_and_verifies(finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    export_bundle(finished.auditor, finished.sources, out)
    report = complete_bundle(out, finished.auditor, {})
    verdict = verify_bundle(out, governance_key=finished.auditor.governance_key())
    assert verdict.charter == finished.federation.charter.digest == report.charter
    assert [hospital.name for hospital in report.hospitals] == [
        hospital.name for hospital in finished.federation.charter.hospitals
    ]
    assert {hospital.metric for hospital in report.hospitals} == {None}
    assert "no hospital has given a figure" in (out / layout.REPORT_HTML).read_text()
    # Again, with the same report.
    before = (out / layout.REPORT_JSON).read_bytes()
    assert complete_bundle(out, finished.auditor, {}) == report
    assert (out / layout.REPORT_JSON).read_bytes() == before
    # Epsilons are the ledgers', whatever a hospital's result says.
    claimed = {"small-1": NodeResult.model_validate(result_of("small-1", epsilon_aggregate=0.0))}
    again = complete_bundle(out, finished.auditor, claimed)
    assert [hospital.epsilon_aggregate for hospital in again.hospitals] == [
        hospital.epsilon_aggregate for hospital in report.hospitals
    ]
    assert min(hospital.epsilon_aggregate for hospital in again.hospitals) > 0
    verify_bundle(out)


def test_the_command_line_exports_reports_and_signs(finished: Finished, tmp_path: Path) -> None:
    out, runner = tmp_path / "bundle", CliRunner()
    state = ["--state", str(finished.auditor.root)]
    arguments = [
        *("export", *state, "--aggregator", finished.sources.aggregator),
        *("--charter", str(finished.sources.charter), "--out", str(out)),
        *("--ledgers", str(finished.sources.ledgers)),
        *("--receipts", str(finished.sources.receipts)),
        *("--results", str(finished.results)),
    ]
    exported = runner.invoke(app, arguments, catch_exceptions=False)
    assert exported.exit_code == 0
    assert "exported, reported and signed" in exported.output
    told = json.loads((out / layout.REPORT_JSON).read_bytes())["hospitals"]
    assert {hospital["name"]: hospital["distilled"] for hospital in told}["small-1"] == 0.625
    assert "not given" in (out / layout.REPORT_HTML).read_text()
    verified = runner.invoke(app, ["verify", str(out)], catch_exceptions=False)
    assert verified.exit_code == 0
    assert "pass 12  report" in verified.output
    assert "warning: the governance key is the bundle's own" in verified.output
    # A receipt that came late: the rest is made anew.
    receipt = next((out / "receipts").iterdir())
    late = receipt.read_bytes()
    receipt.unlink()
    with pytest.raises(StepFailed):
        verify_bundle(out)
    receipt.write_bytes(late)
    signed = runner.invoke(app, ["sign", str(out), *state], catch_exceptions=False)
    assert signed.exit_code == 0
    verify_bundle(out)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("small-1.json", b"{}"),
        ("small-1.json", b"no JSON"),
        ("stranger.json", json.dumps(result_of("stranger")).encode()),
        ("small-1.json", json.dumps(result_of("small-2")).encode()),
        ("small-1.json", json.dumps(result_of("small-1", group="large")).encode()),
        ("small-1.json", json.dumps(result_of("small-1", task="segmentation")).encode()),
        ("small-1.json", json.dumps(result_of("small-1", surplus=1)).encode()),
        ("small-1.json", json.dumps(result_of("small-1", distilled=7)).encode()),
        ("small-1.json", json.dumps(result_of("small-1", head=-0.5)).encode()),
    ],
)
def test_what_is_no_result_of_this_charter_is_not_reported(
    finished: Finished, tmp_path: Path, name: str, content: bytes
) -> None:
    out, results = tmp_path / "bundle", tmp_path / "results"
    results.mkdir()
    (results / name).write_bytes(content)
    export_bundle(finished.auditor, finished.sources, out)
    with pytest.raises(ResultRefused):
        complete_bundle(out, finished.auditor, read_results(results))
    assert not (out / layout.INDEX).exists()
    assert not (out / "report").exists()
    with pytest.raises(ResultRefused, match="not a directory"):
        read_results(tmp_path / "nowhere")


def test_every_cosignature_is_in_the_bundle_and_the_auditors_own(
    finished: Finished, tmp_path: Path
) -> None:
    export_bundle(finished.auditor, finished.sources, tmp_path / "bundle")
    complete_bundle(tmp_path / "bundle", finished.auditor, {})
    charter = finished.federation.charter
    files = layout.read_files(tmp_path / "bundle")
    assert set(layout.cosigned(files)) == {
        *((Role.HOSPITAL, hospital.name) for hospital in charter.hospitals),
        (Role.AUDITOR, "auditor"),
    }
    found = {step.title: step.finding for step in verify_bundle(tmp_path / "bundle").steps}
    assert "4 of 4 hospitals and 1 auditors cosigned this log" in found["witnesses"]
    # Of the hospitals, the broker, the auditor and the aggregator.
    assert found["certificates"].startswith("7 certificates, valid when their parties acted")


def test_a_log_that_does_not_continue_what_the_auditor_saw_is_not_exported(
    finished: Finished, tmp_path: Path
) -> None:
    witness = LogWitness(finished.auditor, finished.federation.charter)
    export_bundle(finished.auditor, finished.sources, tmp_path / "first")
    true = witness.path.read_bytes()
    try:
        # As if the aggregator had shown another log before: it signs whatever it likes.
        head = Checkpoint(log_origin(witness.charter), 3, bytes(32))
        key = finished.federation.state(Role.AGGREGATOR).signing_key()
        witness.path.write_bytes(sign_checkpoint(head, key))
        with pytest.raises(HistoryRefused, match="another log than before"):
            export_bundle(finished.auditor, finished.sources, tmp_path / "second")
        assert not (tmp_path / "second").exists()
        assert witness.contradicting_path.read_bytes() == true
    finally:
        witness.path.write_bytes(true)


def test_evidence_that_does_not_hold_is_kept_and_not_signed(
    finished: Finished, tmp_path: Path
) -> None:
    ledgers = Path(shutil.copytree(finished.sources.ledgers, tmp_path / "ledgers"))
    ledger = ledgers / "small-1.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b"\n", b" \n", 1))
    out = tmp_path / "bundle"
    export_bundle(finished.auditor, dataclasses.replace(finished.sources, ledgers=ledgers), out)
    with pytest.raises(FedHelpError, match="small-1"):
        complete_bundle(out, finished.auditor, {})
    assert (out / layout.ENTRIES).exists()
    assert not (out / layout.INDEX).exists()


def fedhelp(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedhelp_secure", "audit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_line_names_the_step_that_failed(federation: Federation, bundle: Path) -> None:
    key = str(federation.state(Role.AUDITOR).governance_key_path)
    complete_bundle(bundle, federation.state(Role.AUDITOR), {})
    good = fedhelp("verify", str(bundle), "--governance-key", key)
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.count("pass ") == 14
    assert "warning" not in good.stdout
    assert f"evidence verified: charter {federation.charter.digest}" in good.stdout
    checkpoint = bundle / layout.CHECKPOINT
    origin, size, *rest = checkpoint.read_bytes().split(b"\n")
    checkpoint.write_bytes(b"\n".join([origin, b"%d" % (int(size) - 1), *rest]))
    sign_index(bundle, federation.state(Role.AUDITOR))
    bad = fedhelp("verify", str(bundle), "--governance-key", key)
    assert bad.returncode == 1
    assert bad.stdout.splitlines()[-1] == "FAIL  3  checkpoint"
    assert bad.stdout.count("pass ") == 2
    assert bad.stderr.startswith("fedhelp: step 3 (checkpoint) failed: ")
    assert "evidence verified" not in bad.stdout


@pytest.mark.parametrize("content", [None, b"\xff", b"AAAA"])
def test_a_bad_governance_key_file_is_refused(bundle: Path, content: bytes | None) -> None:
    path = bundle.parent / "governance.pub"
    if content is not None:
        path.write_bytes(content)
    arguments = ["verify", str(bundle), "--governance-key", str(path)]
    with pytest.raises(FedHelpError):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_the_export_command_is_for_auditors(finished: Finished, tmp_path: Path) -> None:
    state = str(finished.federation.state("small-1").root)
    with pytest.raises(StateError, match="auditor is needed"):
        CliRunner().invoke(app, ["sign", str(tmp_path), "--state", state], catch_exceptions=False)


def test_a_directory_in_use_is_left_alone(finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    for out in (tmp_path, tmp_path / "mine"):
        with pytest.raises(BundleExists):
            export_bundle(finished.auditor, finished.sources, out)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_another_charter_than_the_aggregators_is_refused(
    finished: Finished, tmp_path: Path
) -> None:
    sources = dataclasses.replace(finished.sources, charter=tmp_path / "charter.json")
    _, envelope = charter_of(finished.federation, "another")
    sources.charter.write_bytes(envelope)
    with pytest.raises(OtherCharter):
        export_bundle(finished.auditor, sources, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_an_auditor_outside_the_charter_is_refused(
    finished: Finished, bundle: Path, tmp_path: Path
) -> None:
    federation = finished.federation
    stranger = Identity(federation.charter.federation, Role.AUDITOR, "stranger")
    state = join(federation.state("registrar"), tmp_path, stranger)
    with pytest.raises(NotAnAuditor):
        export_bundle(state, finished.sources, tmp_path / "new")
    with pytest.raises(NotAnAuditor):
        sign_index(bundle, state)


def test_a_role_that_may_not_list_objects_gets_no_bundle(
    finished: Finished, tmp_path: Path
) -> None:
    broker = finished.federation.state(Role.BROKER)
    with pytest.raises(NotAnAuditor):
        export_bundle(broker, finished.sources, tmp_path / "bundle")


def test_a_missing_folder_is_refused(finished: Finished, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    for sources, what in (
        (dataclasses.replace(finished.sources, ledgers=nowhere), "ledgers"),
        (dataclasses.replace(finished.sources, receipts=nowhere), "receipts"),
    ):
        with pytest.raises(BundleRefused, match=what):
            export_bundle(finished.auditor, sources, tmp_path / "bundle")


def test_other_files_beside_the_ledgers_are_left_alone(finished: Finished, tmp_path: Path) -> None:
    ledgers = Path(shutil.copytree(finished.sources.ledgers, tmp_path / "ledgers"))
    (ledgers / "README.txt").write_text("x")
    (ledgers / "small-1.jsonl").unlink()
    sources = dataclasses.replace(finished.sources, ledgers=ledgers)
    export_bundle(finished.auditor, sources, tmp_path / "bundle")
    assert len(list((tmp_path / "bundle" / "ledgers").iterdir())) == 3


def test_an_unreachable_aggregator_leaves_nothing(finished: Finished, tmp_path: Path) -> None:
    sources = dataclasses.replace(finished.sources, aggregator="127.0.0.1:1")
    with pytest.raises(PeerError, match="cannot be reached"):
        export_bundle(finished.auditor, sources, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_with_foreign_files_is_not_signed(federation: Federation, bundle: Path) -> None:
    (bundle / "notes.txt").write_text("x")
    with pytest.raises(BundleRefused, match="no place"):
        sign_index(bundle, federation.state(Role.AUDITOR))


def test_a_running_round_is_no_evidence_yet(federation: Federation, tmp_path: Path) -> None:
    chosen = charter_of(federation, "running", rounds={"count": 1})
    named = dataclasses.replace(federation, charter=chosen[0], charter_envelope=chosen[1])
    for folder in ("ledgers", "receipts"):
        (tmp_path / folder).mkdir()
    with (
        custodians_of(federation) as custodians,
        AggregatorServer(named, tmp_path, chosen, addresses_of(custodians)) as server,
    ):
        server.party("small-1").wait_for(ROUND_STATE_OPEN)
        server.contribute("small-1")
        sources = Sources(
            server.address,
            tmp_path / "charter.json",
            tmp_path / "ledgers",
            tmp_path / "receipts",
        )
        export_bundle(federation.state(Role.AUDITOR), sources, tmp_path / "bundle")
    sign_index(tmp_path / "bundle", federation.state(Role.AUDITOR))
    with pytest.raises(StepFailed, match="is missing") as caught:
        verify_bundle(tmp_path / "bundle")
    assert caught.value.title == "receipts"


class LyingAggregator(EvidenceServicer, CoordinatorServicer):
    """Serves a true story's log and objects, but for what a test changes."""

    def __init__(self, story: Story, bundle: Path) -> None:
        files = layout.read_files(bundle)
        self.envelope = story.federation.charter_envelope
        self.checkpoint = files[layout.CHECKPOINT]
        self.listed = list(enumerate(layout.leaves(files)))
        self.objects = list(layout.objects(files).values())
        self.cosigned = list(layout.cosigned(files).values())
        (trust_list,) = layout.trust_lists(files).values()
        self.certificates = [
            wire.ListCertificatesResponse(chain=chain, trust_list=trust_list)
            for chain in layout.certificates(files).values()
        ]

    def GetCharter(  # noqa: N802
        self, request: GetCharterRequest, context: grpc.ServicerContext
    ) -> GetCharterResponse:
        return GetCharterResponse(envelope=self.envelope)

    def GetCheckpoint(  # noqa: N802
        self, request: wire.GetCheckpointRequest, context: grpc.ServicerContext
    ) -> wire.GetCheckpointResponse:
        return wire.GetCheckpointResponse(checkpoint=self.checkpoint, cosigned=self.cosigned)

    def Cosign(  # noqa: N802
        self, request: wire.CosignRequest, context: grpc.ServicerContext
    ) -> wire.CosignResponse:
        return wire.CosignResponse()

    def GetConsistencyProof(  # noqa: N802
        self, request: wire.GetConsistencyProofRequest, context: grpc.ServicerContext
    ) -> wire.GetConsistencyProofResponse:
        return wire.GetConsistencyProofResponse()

    def ListCertificates(  # noqa: N802
        self, request: wire.ListCertificatesRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.ListCertificatesResponse]:
        yield from self.certificates

    def ListEntries(  # noqa: N802
        self, request: wire.ListEntriesRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.ListEntriesResponse]:
        for index, entry in self.listed:
            yield wire.ListEntriesResponse(index=index, entry=entry)

    def ListObjects(  # noqa: N802
        self, request: wire.ListObjectsRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.ListObjectsResponse]:
        for envelope in self.objects:
            yield wire.ListObjectsResponse(kind="manifest", envelope=envelope)


def entry_withheld(aggregator: LyingAggregator) -> None:
    del aggregator.listed[3]


def last_entry_withheld(aggregator: LyingAggregator) -> None:
    del aggregator.listed[-1]


def entry_altered(aggregator: LyingAggregator) -> None:
    aggregator.listed[3] = (3, aggregator.listed[4][1])


def entries_misnumbered(aggregator: LyingAggregator) -> None:
    aggregator.listed = [(index + 1, entry) for index, entry in aggregator.listed]


def object_withheld(aggregator: LyingAggregator) -> None:
    del aggregator.objects[0]


def checkpoint_by_another(aggregator: LyingAggregator) -> None:
    aggregator.checkpoint = aggregator.checkpoint.replace(b"/log", b"/fog")


def nothing(_: LyingAggregator) -> None:
    """The truth, to show that the rest is about the lies."""


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        (nothing, None),
        (entry_withheld, "not those that its checkpoint signs"),
        (last_entry_withheld, "not those that its checkpoint signs"),
        (entry_altered, "not those that its checkpoint signs"),
        (entries_misnumbered, "not those that its checkpoint signs"),
        (object_withheld, "does not give every object"),
        (checkpoint_by_another, "not signed by the log's key"),
    ],
)
def test_a_lying_aggregator_is_caught_while_exporting(
    true_story: Story,
    true_bundle: Path,
    tmp_path: Path,
    lie: Callable[[LyingAggregator], None],
    refusal: str | None,
) -> None:
    federation = true_story.federation
    # Abstract for the type stubs only; what is not called need not be served.
    aggregator = LyingAggregator(true_story, true_bundle)  # type: ignore[abstract]
    lie(aggregator)

    def register(server: grpc.Server) -> None:
        add_EvidenceServicer_to_server(aggregator, server)
        add_CoordinatorServicer_to_server(aggregator, server)

    server = start_server(federation.state(Role.AGGREGATOR), "127.0.0.1:0", register=register)
    charter = federation.charter_file()
    ledgers, receipts = true_bundle / "ledgers", true_bundle / "receipts"
    sources = Sources(server.address, charter, ledgers, receipts)
    out = tmp_path / "bundle"
    try:
        if refusal is None:
            export_bundle(federation.state(Role.AUDITOR), sources, out)
            assert out.exists()
        else:
            with pytest.raises(PeerError, match=refusal):
                export_bundle(federation.state(Role.AUDITOR), sources, out)
            assert not out.exists()
    finally:
        server.stop(0)
