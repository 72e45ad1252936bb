"""``fedhelp demo`` as its users see it: what it prints, leaves, refuses and cleans up."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from e2e.conftest import DEMO_SECONDS, FinishedDemo, fedhelp, processes_naming

from fedhelp_secure.keystore.permissions import check_private


def test_the_result_has_the_documented_fields(finished_demo: FinishedDemo) -> None:
    result = finished_demo.result
    assert result["task"] == "classification"
    assert result["dataset"] == "folder"
    assert result["evidence_verified"] is True
    assert result["foundation_model_calls"] == 1
    assert result["rounds"] == 2
    assert result["custodians"] == {"unmaskers": 2}
    assert result["secure_sum"]["values"] > 0
    assert result["secure_sum"]["bytes"] > 3 * 2 * 65536
    assert [hospital["name"] for hospital in result["hospitals"]] == [
        "large-1",
        "small-1",
        "small-2",
    ]
    for hospital in result["hospitals"]:
        assert hospital["metric"] == "accuracy"
        assert 0 <= hospital["alone"] <= 1
        assert 0 <= hospital["distilled"] <= 1
        # Spent almost wholly (sigma is rounded up), and never beyond the limit.
        assert 7.9 < hospital["epsilon_aggregate"] <= 8
        assert hospital["epsilon_collusion"] >= hospital["epsilon_aggregate"]


def test_the_screen_says_which_data_and_whether_it_verified(finished_demo: FinishedDemo) -> None:
    assert "data:" in finished_demo.screen.lower()
    assert str(finished_demo.result["dataset_sentence"])[:30] in finished_demo.screen
    assert "evidence verified: yes" in finished_demo.screen
    assert "epsilon" in finished_demo.screen


def test_no_process_is_left(finished_demo: FinishedDemo) -> None:
    assert not processes_naming(str(finished_demo.out))


def test_secrets_and_state_are_for_their_owner_only(finished_demo: FinishedDemo) -> None:
    exposed = [
        path
        for path in (finished_demo.out / "parties").rglob("*")
        if path.is_file()
        and path.suffix in {".pem", ".bin", ".secret", ".sqlite"}
        and path.name not in {"certificate.pem"}
        and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    assert not exposed
    states = [path.parent for path in (finished_demo.out / "parties").glob("*/identity.json")]
    assert len(states) > 7
    for state in states:
        check_private(state)


def test_logs_hold_no_label_no_secret_and_no_traceback(finished_demo: FinishedDemo) -> None:
    logs = sorted((finished_demo.out / "logs").glob("*.log"))
    assert {"aggregator.log", "decryptor.log", "unmasker.log", "unmasker-2.log"} <= {
        log.name for log in logs
    }
    for log in logs:
        text = log.read_text()
        assert "Traceback" not in text, f"{log.name}: {text}"
        assert "PRIVATE KEY" not in text


def test_the_report_stands_alone(finished_demo: FinishedDemo) -> None:
    page = (finished_demo.out / "evidence" / "report" / "report.html").read_text()
    assert page.count("<svg") == 3
    assert "<script" not in page
    assert "small-1" in page
    for scheme in ('src="http', 'href="http', "@import"):
        assert scheme not in page.replace('xmlns:xlink="http', "")


def test_each_hospital_has_pictures_that_are_no_part_of_the_evidence(
    finished_demo: FinishedDemo,
) -> None:
    for hospital in finished_demo.result["hospitals"]:
        path = finished_demo.out / "pictures" / hospital["name"] / "index.html"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        page = path.read_text()
        # Confusion matrices and curves.
        assert page.count('<img src="data:image/png;base64,') == 2
        assert f"{hospital['distilled']:.3f}" in page
        results = finished_demo.out / "parties" / hospital["name"] / "hospital" / "results"
        losses = [
            str(json.loads(line)["loss"])[:10]
            for step in ("training", "distillation")
            for line in (results / f"{step}.jsonl").read_text().splitlines()
        ]
        assert len(losses) > 5
        for folder in ("evidence", "evidence-report", "collected", "logs", "hospitals"):
            for given in (finished_demo.out / folder).rglob("*"):
                text = given.read_bytes() if given.is_file() else b""
                assert b"image/png" not in text, given
                assert not any(loss.encode() in text for loss in losses), given


def test_the_evidence_verifies_again_and_fails_when_altered(finished_demo: FinishedDemo) -> None:
    evidence = finished_demo.out / "evidence"
    accepted = fedhelp("audit", "verify", str(evidence), cwd=finished_demo.work)
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    for pattern in ("log/entries.jsonl", "objects/*.json", "ledgers/*.jsonl", "report/*"):
        for path in sorted(evidence.glob(pattern))[:2]:
            original = path.read_bytes()
            middle = len(original) // 2
            path.write_bytes(
                original[:middle] + bytes([original[middle] ^ 1]) + original[middle + 1 :]
            )
            try:
                refused = fedhelp("audit", "verify", str(evidence), cwd=finished_demo.work)
                assert refused.returncode == 1, f"{path} was altered and nobody noticed"
                assert "Traceback" not in refused.stderr
            finally:
                path.write_bytes(original)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--dataset", "busi"], "needs --data"),
        (["--dataset", "folder", "--data", "empty"], "empty"),
        (["--epsilon", "0", "--dataset", "phantom"], "epsilon"),
    ],
)
def test_bad_options_are_refused_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.delenv("FEDHELP_DATA", raising=False)
    (tmp_path / "empty").mkdir()
    refused = fedhelp("demo", *arguments, "--out", "out", cwd=tmp_path)
    assert refused.returncode == 1
    assert sentence in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not processes_naming(str(tmp_path))


def test_a_directory_in_use_is_not_touched(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("x")
    refused = fedhelp("demo", "--dataset", "phantom", "--out", "out", cwd=tmp_path)
    assert refused.returncode == 1
    assert "not empty" in refused.stderr
    assert [path.name for path in out.iterdir()] == ["precious"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process(
    tmp_path: Path, few_images: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    command = ["demo", "--dataset", "folder", "--data", str(few_images), "--out", str(out)]
    command += ["--large", "1", "--small", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fedhelp_secure", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + DEMO_SECONDS
        while not (out / "ready" / "aggregator").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        assert len(processes_naming(str(out))) > 3
        process.send_signal(number)
        assert process.wait(timeout=40) == 130
    finally:
        process.kill()
        process.wait()
    assert not processes_naming(str(out))


def test_kept_running_the_servers_stay_until_ctrl_c(finished_demo: FinishedDemo) -> None:
    assert finished_demo.kept_running >= 5


def test_json_is_what_the_report_says(finished_demo: FinishedDemo) -> None:
    report = json.loads((finished_demo.out / "evidence" / "report" / "report.json").read_text())
    added = {"evidence_verified": True, "custodians": {"unmaskers": 2}}
    assert {**report, **added} == finished_demo.result
