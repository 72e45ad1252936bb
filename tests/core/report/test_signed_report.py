"""A filed report: signed by an auditor, of this bundle, saying what the bundle shows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from support.evidence import Story
from support.federation import Federation
from typer.testing import CliRunner

from fedhelp_secure.canonical import digest
from fedhelp_secure.evidence import verify_audit_report as checker
from fedhelp_secure.evidence.bundle import NotAnAuditor
from fedhelp_secure.evidence.verify import StepFailed
from fedhelp_secure.evidence.verify_audit_report import verify_audit_report
from fedhelp_secure.report.commands import report
from fedhelp_secure.report.facts import Facts
from fedhelp_secure.report.signed import ALL, KIND, SIGNATURE, write_report
from fedhelp_secure.signing import SigningKey, open_document
from fedhelp_secure.transport.identity import Role


@pytest.fixture(scope="session")
def auditor(federation: Federation) -> SigningKey:
    return federation.state(Role.AUDITOR).signing_key()


@pytest.fixture(scope="session")
def filed_once(
    bundle: Path, federation: Federation, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("filed")
    write_report(bundle, out, auditor=federation.state(Role.AUDITOR))
    return out


@pytest.fixture
def filed(filed_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(filed_once, tmp_path / "filed"))


def test_what_was_written_is_accepted(bundle: Path, facts: Facts, filed: Path) -> None:
    assert {path.name for path in filed.iterdir()} == {
        "report.json",
        "report.html",
        "report.pdf",
        SIGNATURE,
    }
    step = verify_audit_report(bundle, filed)
    assert (step.number, step.title) == (len(facts.verdict.steps) + 1, "audit report")
    assert "say what this bundle shows" in step.finding


def resign(filed: Path, auditor: SigningKey, change: Callable[[Path], object]) -> None:
    """What an auditor does who signs something else."""
    change(filed)
    document = open_document(KIND, (filed / SIGNATURE).read_bytes(), auditor.public)
    document["files"] = {name: digest((filed / name).read_bytes()) for name in document["files"]}
    (filed / SIGNATURE).write_bytes(auditor.sign_document(KIND, document))


def replace_text(name: str, old: str, new: str) -> Callable[[Path], object]:
    def change(filed: Path) -> None:
        text = (filed / name).read_text()
        assert old in text
        (filed / name).write_text(text.replace(old, new))

    return change


def flip(name: str) -> Callable[[Path], object]:
    def change(filed: Path) -> None:
        data = bytearray((filed / name).read_bytes())
        data[len(data) // 2] ^= 1
        (filed / name).write_bytes(bytes(data))

    return change


def unlink(name: str) -> Callable[[Path], object]:
    return lambda filed: (filed / name).unlink()


TAMPERED: list[tuple[str, Callable[[Path], object]]] = [
    ("report.json was changed", flip("report.json")),
    ("report.html was changed", flip("report.html")),
    ("report.pdf was changed", flip("report.pdf")),
    ("report.json of the audit report cannot be read", unlink("report.json")),
    ("report.pdf of the audit report cannot be read", unlink("report.pdf")),
    (f"{SIGNATURE} of the audit report cannot be read", unlink(SIGNATURE)),
    ("audit report", flip(SIGNATURE)),
]


@pytest.mark.parametrize(("why", "change"), TAMPERED)
def test_a_changed_report_is_refused(
    bundle: Path, filed: Path, why: str, change: Callable[[Path], object]
) -> None:
    change(filed)
    with pytest.raises(StepFailed, match=why) as caught:
        verify_audit_report(bundle, filed)
    assert caught.value.title == "audit report"


@pytest.mark.parametrize("name", ["report.json", "report.html"])
def test_a_sentence_that_the_bundle_does_not_show_is_refused(
    bundle: Path, filed: Path, auditor: SigningKey, name: str
) -> None:
    change = replace_text(name, "no refused contribution", "no contribution")
    resign(filed, auditor, change)
    with pytest.raises(StepFailed, match=f"{name} does not say what the bundle shows"):
        verify_audit_report(bundle, filed)


def test_a_report_of_another_bundle_is_refused(story: Story, filed: Path, tmp_path: Path) -> None:
    other = story.copy()
    other.report["hospitals"][0]["epsilon_aggregate"] += 0.5
    with pytest.raises(StepFailed, match="of another bundle"):
        verify_audit_report(other.write(tmp_path / "other"), filed)


def test_somebody_elses_signature_is_refused(
    bundle: Path, filed: Path, auditor: SigningKey
) -> None:
    document = open_document(KIND, (filed / SIGNATURE).read_bytes(), auditor.public)
    (filed / SIGNATURE).write_bytes(SigningKey.generate().sign_document(KIND, document))
    with pytest.raises(StepFailed, match="not signed by an auditor"):
        verify_audit_report(bundle, filed)


def test_a_form_that_is_not_signed_is_refused(
    bundle: Path, federation: Federation, filed_once: Path, tmp_path: Path
) -> None:
    write_report(bundle, tmp_path, forms=("json",), auditor=federation.state(Role.AUDITOR))
    verify_audit_report(bundle, tmp_path)
    shutil.copyfile(filed_once / "report.pdf", tmp_path / "report.pdf")
    with pytest.raises(StepFailed, match=r"report\.pdf is not under the auditor's signature"):
        verify_audit_report(bundle, tmp_path)


def test_paths_in_the_signed_list_are_refused(
    bundle: Path, filed: Path, auditor: SigningKey
) -> None:
    document = open_document(KIND, (filed / SIGNATURE).read_bytes(), auditor.public)
    document["files"] = {"../report.json": digest(b"")}
    (filed / SIGNATURE).write_bytes(auditor.sign_document(KIND, document))
    with pytest.raises(StepFailed, match="does not list a report's files"):
        verify_audit_report(bundle, filed)


def test_another_versions_report_is_compared_by_digest(
    bundle: Path, filed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checker, "version", lambda _: "99.0")
    assert "another version" in verify_audit_report(bundle, filed).finding
    flip("report.html")(filed)
    with pytest.raises(StepFailed, match="was changed"):
        verify_audit_report(bundle, filed)


def test_nothing_is_written_for_a_bundle_that_does_not_verify(
    bundle: Path, federation: Federation, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(bundle, tmp_path / "broken"))
    (broken / "log" / "checkpoint.txt").write_bytes(b"x")
    with pytest.raises(StepFailed):
        write_report(broken, tmp_path / "out", auditor=federation.state(Role.AUDITOR))
    with pytest.raises(NotAnAuditor):
        write_report(bundle, tmp_path / "out", auditor=federation.state("small-1"))
    assert not (tmp_path / "out").exists()


def test_an_earlier_report_is_replaced_with_its_signature(
    bundle: Path, filed: Path, auditor: SigningKey
) -> None:
    write_report(bundle, filed, forms=("html",))
    assert [path.name for path in filed.iterdir()] == ["report.html"]


def test_the_command(federation: Federation, bundle: Path, facts: Facts, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(report)
    copy = Path(shutil.copytree(bundle, tmp_path / "evidence"))
    state = str(federation.state(Role.AUDITOR).root)
    result = CliRunner().invoke(app, [str(copy), "--state", state])
    assert result.exit_code == 0, result.output
    out = tmp_path / "evidence-report"
    assert len(list(out.iterdir())) == len(ALL) + 1
    assert json.loads((out / "report.json").read_bytes())["charter"] == facts.charter.digest
    verify = ["-m", "fedhelp_secure", "audit", "verify", str(copy), "--audit-report", str(out)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, *verify]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    number = len(facts.verdict.steps) + 1
    assert f"pass {number}  audit report" in done.stdout
    flip("report.pdf")(out)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert f"FAIL {number}  audit report" in done.stdout
    unsigned = CliRunner().invoke(app, [str(copy), "--html", "--out", str(tmp_path / "x")])
    assert "not signed" in unsigned.output
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["report.html"]
