"""Each check passes on a site that is right, and fails on a real fault."""

from __future__ import annotations

import datetime
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import pytest
import yaml
from client.preflight.conftest import (
    CLASSES,
    PATIENTS,
    Ready,
    command,
    dataset,
    finding,
    written,
)
from cryptography import x509
from support.certificates import Issuer, forge
from support.charters import complete
from support.federation import FEDERATION, join

from fedhelp_client.data.folder import write_folder
from fedhelp_client.data.types import Dataset
from fedhelp_client.preflight import peers
from fedhelp_client.preflight.checks import CHECKS
from fedhelp_client.preflight.machine import disk_bytes
from fedhelp_keys.registrar.ca import found_federation
from fedhelp_secure.charter import parse_charter, sign_charter
from fedhelp_secure.privacy.ledger import Ledger
from fedhelp_secure.privacy.ledger_file import ledger_path
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import server_name, utc_now
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.store import TrustStore
from fedhelp_secure.trust.trust_list import sign_trust_list


def snapshot(*roots: Path) -> dict[str, tuple[bytes, int, int]]:
    """Every file's bytes, mode and time of change."""
    found = {}
    for root in roots:
        for path in [root, *root.rglob("*")]:
            seen = path.lstat()
            held = path.read_bytes() if path.is_file() else b""
            found[str(path)] = (held, seen.st_mode, seen.st_mtime_ns)
    return found


@pytest.fixture
def own(ready: Ready, tmp_path: Path) -> Path:
    """A copy of the hospital's state, to be spoilt."""
    return Path(shutil.copytree(ready.arguments["root"], tmp_path / "state"))


def charter_file(ready: Ready, tmp_path: Path, **changes: Any) -> Path:  # noqa: ANN401
    """Another charter of the same registrar."""
    document = ready.federation.charter.document()
    planned = document["secure_sum"]
    document["secure_sum"] = {name: planned[name] for name in ("values", "fraction_bits")}
    del document["privacy"]["sigma_units"]
    for name, value in changes.items():
        document[name] = document[name] | value if isinstance(value, dict) else value
    charter = parse_charter(complete(document))
    path = tmp_path / "other-charter.json"
    path.write_bytes(sign_charter(charter, ready.federation.governance_key))
    return path


def policy_file(tmp_path: Path, **entries: object) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(entries))
    return path


def test_a_site_that_is_ready_passes_and_nothing_is_changed(ready: Ready, tmp_path: Path) -> None:
    watched = ready.arguments["root"], ready.arguments["data"]
    broker = ready.federation.state("broker").root
    before = snapshot(*watched, broker)
    done = command(*ready.options(), "--json", str(tmp_path / "report.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert snapshot(*watched, broker) == before
    report = written(tmp_path / "report.json")
    assert [each["check"] for each in report["findings"]] == [name for name, _ in CHECKS]
    assert {each["verdict"] for each in report["findings"]} == {"pass"}, report
    assert report["charter"] == ready.federation.charter.digest
    shown = done.stdout + (tmp_path / "report.json").read_text()
    for text in (report["charter"], version("fedhelp-secure"), "(aggregate)", "(collusion)"):
        assert text in shown
    assert "preflight: 12 pass, 0 warn, 0 fail" in done.stdout
    # The table is whole: what a ticket must name is not cut off at somebody's screen.
    assert report["charter"] in done.stdout
    assert report["policy"] in done.stdout
    for each in report["findings"]:
        for word in each["says"].split():
            assert word in done.stdout, each
    # Nothing of the patients: no count, no name, no file.
    assert "person-" not in shown
    assert "image-0" not in shown
    assert "patients: enough" in report["findings"][8]["says"]
    assert str(PATIENTS) not in report["findings"][8]["says"]


def test_software_of_two_releases_fails(ready: Ready, tmp_path: Path) -> None:
    other = tmp_path / "site" / "fedhelp_client-9.9.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: fedhelp-client\nVersion: 9.9.9\n")
    (other / "RECORD").write_text("")
    entries = distribution("fedhelp-client").read_text("entry_points.txt")
    (other / "entry_points.txt").write_text(entries or "")
    out = tmp_path / "report.json"
    done = command(*ready.options(), "--json", str(out), PYTHONPATH=str(other.parent))
    assert done.returncode == 1
    assert "install one release" in written(out)["findings"][0]["says"]


def _readable(root: Path) -> None:
    (root / "hospital").mkdir(exist_ok=True, mode=0o700)
    (root / "hospital" / "left.txt").write_text("x")
    (root / "hospital" / "left.txt").chmod(0o644)


def _linked(root: Path) -> None:
    (root / "elsewhere").symlink_to("/tmp")  # noqa: S108


def _open_root(root: Path) -> None:
    root.chmod(0o755)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [(_readable, "chmod"), (_linked, "is a symbolic link"), (_open_root, "chmod -R go-rwx")],
)
def test_a_state_directory_that_is_open_fails(
    ready: Ready, own: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    spoil(own)
    verdict, says = finding(ready.report(root=own), "state directory")
    assert verdict == "fail"
    assert sentence in says


def test_a_missing_state_fails_once_and_the_rest_says_where_to_look(
    ready: Ready, tmp_path: Path
) -> None:
    report = ready.report(root=tmp_path / "none")
    assert finding(report, "state directory")[0] == "fail"
    assert finding(report, "certificate") == ("fail", "not checked: see state directory.")
    assert report.hospital == report.charter == "unknown"


def _certificate(own: Path, registrar: StateDirectory, *, left: float, whole: float) -> None:
    state = StateDirectory.open(own)
    issuer = Issuer.of_registrar(registrar)
    end = utc_now() + datetime.timedelta(days=left)
    names = [
        x509.UniformResourceIdentifier(state.identity.uri),
        x509.DNSName(server_name(state.identity)),
    ]
    begin = end - datetime.timedelta(days=whole)
    made = forge(names, issuer=issuer, not_before=begin, not_after=end)
    state.tls_key_path.write_bytes(made.key)
    state.tls_certificate_path.write_bytes(made.certificate)


@pytest.mark.parametrize(
    ("left", "foreign", "verdict", "sentence"),
    [
        (29.0, False, "pass", "days left"),
        (3.0, False, "warn", "renew it now"),
        (-1.0, False, "fail", "expired"),
        (29.0, True, "fail", "chain is refused"),
    ],
)
def test_a_certificate_that_ends_or_is_not_ours(
    ready: Ready,
    own: Path,
    tmp_path: Path,
    left: float,
    foreign: bool,
    verdict: str,
    sentence: str,
) -> None:
    registrar = ready.federation.state("registrar")
    if foreign:
        registrar = found_federation(tmp_path / "r", registrar.identity.federation, now=utc_now())
    _certificate(own, registrar, left=left, whole=30)
    found = finding(ready.report(root=own), "certificate")
    assert found[0] == verdict
    assert sentence in found[1]


def test_a_charter_by_another_key_fails(ready: Ready, tmp_path: Path) -> None:
    other = tmp_path / "charter.json"
    other.write_bytes(sign_charter(ready.federation.charter, SigningKey.generate()))
    report = ready.report(charter_file=other)
    assert finding(report, "charter")[0] == "fail"
    assert "sign" in finding(report, "charter")[1]


def test_a_rehearsal_is_not_for_patients(ready: Ready, tmp_path: Path) -> None:
    other = charter_file(ready, tmp_path, privacy={"mechanism": "rehearsal"})
    assert finding(ready.report(charter_file=other), "charter")[0] == "fail"


def test_a_policy_that_forbids_the_charter_fails(ready: Ready, tmp_path: Path) -> None:
    for entries, sentence in (
        ({"epsilon": "1"}, "this site allows at most 1"),
        ({"charters": ["sha256:" + "0" * 64]}, "does not name the charter"),
        ({"charter_signers": [SigningKey.generate().public.to_base64()]}, "charter_signers"),
        ({"epsilonn": "1"}, "not valid"),
    ):
        verdict, says = finding(
            ready.report(policy_file=policy_file(tmp_path, **entries)), "site policy"
        )
        assert verdict == "fail"
        assert sentence in says
    assert finding(ready.report(policy_file=None), "site policy")[0] == "warn"


def test_hours_that_come_after_a_rounds_deadline_are_a_warning(
    ready: Ready, tmp_path: Path
) -> None:
    far = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)
    day = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")[far.weekday()]
    hours = {"days": [day], "begin": "10:00", "end": "11:00", "time_zone": "UTC"}
    verdict, says = finding(
        ready.report(policy_file=policy_file(tmp_path, hours=hours)), "site policy"
    )
    assert verdict == "warn"
    assert "closes before that" in says


def test_a_budget_that_does_not_last_fails_with_both_epsilons(
    ready: Ready, own: Path, tmp_path: Path
) -> None:
    policy = policy_file(tmp_path, epsilon_collusion="0.5")
    verdict, says = finding(ready.report(root=own, policy_file=policy), "budget")
    assert verdict == "fail"
    assert "(aggregate)" in says
    assert "of 0.5 (collusion)" in says
    assert not ledger_path(StateDirectory.open(own)).exists()


def test_a_ledger_that_is_damaged_fails(ready: Ready, own: Path) -> None:
    state = StateDirectory.open(own)
    ledger = Ledger.open(
        ledger_path(state), hospital=state.identity.name, signing_key=state.signing_key()
    )
    ledger.reserve(ready.federation.charter, 1)
    assert "1 rounds that remain" in finding(ready.report(root=own), "budget")[1]
    ledger_path(state).write_bytes(b"not a ledger")
    report = ready.report(root=own)
    assert "unbroken ledger" in finding(report, "site policy")[1]
    assert finding(report, "budget") == ("fail", "not checked: see site policy.")


def test_public_files_of_another_charter_fail(ready: Ready, tmp_path: Path) -> None:
    other = tmp_path / "context"
    other.write_bytes(b"another")
    assert finding(ready.report(context=other), "public files")[0] == "fail"
    assert finding(ready.report(context=None, public_set=None), "public files")[0] == "warn"


@pytest.fixture
def small_disk(ready: Ready) -> Iterator[Path]:
    """A copy of the state on the smallest file system of a usual machine."""
    shared = Path("/dev/shm")  # noqa: S108
    if not os.access(shared, os.W_OK):
        pytest.skip("this machine has no /dev/shm")
    root = shared / f"fedhelp-preflight-{os.getpid()}"
    shutil.copytree(ready.arguments["root"], root)
    yield root
    shutil.rmtree(root)


def test_a_disk_without_room_for_the_charters_ciphertexts_fails(
    ready: Ready, tmp_path: Path, small_disk: Path
) -> None:
    long = charter_file(
        ready,
        tmp_path,
        privacy={"mechanism": "rehearsal", "epsilon": "100"},
        secure_sum={"values": 1 << 26},
        rounds={"count": 100},
    )
    report = ready.report(charter_file=long, root=small_disk)
    needed = disk_bytes(ready.site(charter_file=long).charter)
    if shutil.disk_usage(small_disk).free > needed:
        pytest.skip("this machine's shared memory holds even the longest charter's ciphertexts")
    verdict, says = finding(report, "disk")
    assert verdict == "fail"
    assert "make room" in says
    assert finding(ready.report(root=small_disk), "disk")[0] == "pass"


@pytest.mark.parametrize("patients", [3, 9])
def test_too_few_patients_fail_without_a_number(
    ready: Ready, tmp_path: Path, patients: int
) -> None:
    write_folder(dataset(patients), tmp_path / "data")
    verdict, says = finding(ready.report(data=tmp_path / "data"), "data folder")
    assert (verdict, "too few" in says) == ("fail", True)
    assert not any(mark.isdigit() for mark in says)


def test_data_that_the_node_would_refuse_fails_without_a_line_or_a_name(
    ready: Ready, tmp_path: Path
) -> None:
    whole = dataset(PATIENTS)
    write_folder(Dataset("own", ("other", CLASSES[1]), whole.examples), tmp_path / "classes")
    twice = (*whole.examples, replace(whole.examples[0], patient="person-99"))
    write_folder(replace(whole, examples=twice), tmp_path / "twice")
    (tmp_path / "empty").mkdir()
    for name, code in (
        ("classes", "data-folder"),
        ("twice", "patient-under-two-names"),
        ("empty", "data-folder"),
        ("missing", "data-folder"),
    ):
        verdict, says = finding(ready.report(data=tmp_path / name), "data folder")
        assert verdict == "fail"
        assert code in says
        assert not any(mark.isdigit() for mark in says)


def test_peers_that_are_not_there_or_not_who_they_should_be_fail(ready: Ready) -> None:
    nobody = ready.report(aggregator_address="127.0.0.1:1", broker_address="127.0.0.1:1")
    for check in ("aggregator", "broker"):
        verdict, says = finding(nobody, check)
        assert (verdict, "cannot be reached" in says) == ("fail", True)
    assert finding(nobody, "clock")[0] == "fail"
    swapped = ready.report(
        aggregator_address=ready.arguments["broker_address"],
        broker_address=ready.arguments["aggregator_address"],
    )
    for check in ("aggregator", "broker"):
        verdict, says = finding(swapped, check)
        assert (verdict, "no valid certificate" in says) == ("fail", True)


def test_an_aggregator_with_another_charter_fails(ready: Ready, tmp_path: Path) -> None:
    other = charter_file(ready, tmp_path, name="another")
    verdict, says = finding(ready.report(charter_file=other), "aggregator")
    assert (verdict, "another charter" in says) == ("fail", True)


def test_a_party_that_the_servers_refuse_fails(
    ready: Ready, own: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # An authority on its own list alone vouches for it, so only the peers' refusal remains.
    registrar, store = ready.federation.state("registrar"), TrustStore(StateDirectory.open(own))
    other = found_federation(
        tmp_path_factory.mktemp("other") / "r", registrar.identity.federation, now=utc_now()
    )
    _certificate(own, other, left=29, whole=30)
    held = store.current()
    both = (*held.authorities, *TrustStore(other).current().authorities)
    later = held.model_copy(update={"sequence": held.sequence + 1, "authorities": both})
    store.install(sign_trust_list(later, registrar.signing_key()), now=utc_now())
    report = ready.report(root=own)
    for check in ("aggregator", "broker"):
        verdict, says = finding(report, check)
        assert (verdict, "does not accept this party's certificate" in says) == ("fail", True)


@pytest.mark.parametrize(
    ("shift", "verdict"), [(0.0, "pass"), (20.0, "warn"), (-90.0, "fail"), (7200.0, "fail")]
)
def test_a_clock_that_is_off_is_found_over_the_wire(
    ready: Ready, shift: float, verdict: str
) -> None:
    # The aggregator is another process with the machine's clock: ours is wrong.
    assert peers.clock(ready.site(), lambda: time.time() + shift).verdict == verdict


def test_a_hospital_that_the_charter_does_not_name_fails(ready: Ready, tmp_path: Path) -> None:
    stranger = Identity(FEDERATION, Role.HOSPITAL, "stranger")
    state = join(ready.federation.state("registrar"), tmp_path, stranger)
    verdict, says = finding(ready.report(root=state.root), "charter")
    assert (verdict, "not in the charter" in says) == ("fail", True)


def test_the_documented_command_has_exactly_the_options_that_there_are(ready: Ready) -> None:
    page = (Path(__file__).parents[3] / "docs" / "security-engineer.md").read_text()
    (block,) = re.findall(r"```\n(fedhelp client preflight .*?)```", page, re.DOTALL)
    documented = set(re.findall(r"--[a-z-]+", block))
    assert documented == {part for part in ready.options() if part.startswith("--")} | {"--json"}
    rows = re.findall(r"^\| ([a-z, ]+) \| ", page[page.index("## Preflight") :], re.MULTILINE)
    named = {name for row in rows for name in row.split(", ")}
    assert {name for name, _ in CHECKS} <= named
