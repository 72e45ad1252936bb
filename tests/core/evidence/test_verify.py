"""The verifier on a true bundle, and on bundles that an auditor signed but that are false.

Every case says which step must fail: the auditor's index is never the only line of defence where a
deeper signature exists.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.evidence import Story
from support.federation import Federation, make_federation

from fedhelp_secure.canonical import digest
from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.verify import StepFailed, verify_bundle
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.transport.identity import Role
from fedhelp_secure.trust.trust_list import open_trust_list, sign_trust_list

STEPS = [
    "index",
    "charter",
    "checkpoint",
    "tree",
    "entries",
    "manifests",
    "receipts",
    "rounds",
    "key epochs",
    "ledgers",
    "foundation model",
    "report",
    "witnesses",
    "certificates",
]


def sign_as_auditor(federation: Federation, bundle: Path, key: SigningKey | None = None) -> None:
    """Sign whatever the bundle holds, as a careless auditor would."""
    (bundle / layout.INDEX).unlink(missing_ok=True)
    paths = [path for path in bundle.rglob("*") if path.is_file()]
    files = {path.relative_to(bundle).as_posix(): digest(path.read_bytes()) for path in paths}
    signer = key or federation.state(Role.AUDITOR).signing_key()
    envelope = signer.sign_document(layout.INDEX_KIND, {"files": files})
    (bundle / layout.INDEX).write_bytes(envelope)


def failing_step(bundle: Path, match: str | None = None) -> str:
    with pytest.raises(StepFailed, match=match) as caught:
        verify_bundle(bundle)
    assert [step.title for step in caught.value.passed] == STEPS[: caught.value.number - 1]
    assert f"step {caught.value.number} ({caught.value.title}) failed" in str(caught.value)
    return caught.value.title


def test_a_true_bundle_passes_every_step(federation: Federation, true_bundle: Path) -> None:
    verdict = verify_bundle(true_bundle, governance_key=federation.governance_key.public)
    assert [step.title for step in verdict.steps] == STEPS
    assert [step.number for step in verdict.steps] == list(range(1, 15))
    assert verdict.charter == federation.charter.digest
    assert verdict.warnings == ()


def test_the_bundles_own_governance_key_is_a_warning(true_bundle: Path) -> None:
    (warning,) = verify_bundle(true_bundle).warnings
    assert "compare its fingerprint by voice" in warning


def test_another_governance_key_is_refused(true_bundle: Path) -> None:
    with pytest.raises(StepFailed) as caught:
        verify_bundle(true_bundle, governance_key=SigningKey.generate().public)
    assert caught.value.title == "charter"


def test_verifying_needs_no_network_and_changes_nothing(
    true_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the verifier opened a socket")

    before = layout.read_files(true_bundle)
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("grpc.secure_channel", refuse)
    verify_bundle(true_bundle)
    assert layout.read_files(true_bundle) == before


# One flipped byte, without and with the auditor signing again


def places(data: bytes) -> list[int]:
    """Both ends, and eight places between that differ from length to length."""
    return sorted({0, len(data) - 1, *range(3, len(data), max(1, len(data) // 8))})


def test_no_byte_of_any_file_changes_unnoticed(bundle: Path) -> None:
    paths = [path for path in bundle.rglob("*") if path.is_file()]
    assert len(paths) == 62
    for path in paths:
        data = path.read_bytes()
        place = len(data) // 2
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert failing_step(bundle) == "index", path
        path.write_bytes(data)
    verify_bundle(bundle)


FLIPS = [
    (layout.CHARTER, {"index", "charter"}),
    (layout.GOVERNANCE_KEY, {"charter"}),
    (layout.CHECKPOINT, {"checkpoint"}),
    (layout.ENTRIES, {"tree"}),
    ("objects/*.json", {"entries"}),
    ("receipts/*.bin", {"receipts"}),
    ("ledgers/*.jsonl", {"ledgers"}),
    ("log/cosigned/*.txt", {"witnesses"}),
    ("certificates/*.pem", {"certificates"}),
    ("trust/*.json", {"certificates"}),
]


@pytest.mark.parametrize(("pattern", "expected"), FLIPS)
def test_no_flipped_byte_survives_an_auditor_who_signs_it(
    federation: Federation, bundle: Path, pattern: str, expected: set[str]
) -> None:
    chosen = sorted(bundle.glob(pattern))
    assert chosen
    for path in chosen:
        data = path.read_bytes()
        for place in places(data):
            bit = 1 << place % 7
            path.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
            sign_as_auditor(federation, bundle)
            assert failing_step(bundle) in expected, (path, place)
        path.write_bytes(data)
    sign_as_auditor(federation, bundle)
    verify_bundle(bundle)


def test_every_log_entry_is_under_the_tree(federation: Federation, bundle: Path) -> None:
    path = bundle / layout.ENTRIES
    lines = path.read_bytes().splitlines(keepends=True)
    for index, line in enumerate(lines):
        leaf = bytearray(base64.b64decode(json.loads(line)["entry"]))
        leaf[-1] ^= 1
        changed = [*lines[:index], layout.entry_line(index, bytes(leaf)), *lines[index + 1 :]]
        path.write_bytes(b"".join(changed))
        sign_as_auditor(federation, bundle)
        assert failing_step(bundle, "do not hash") == "tree"


def test_an_object_renamed_after_its_change_is_not_the_logs(
    federation: Federation, bundle: Path
) -> None:
    for path in sorted(bundle.glob("objects/*.json")):
        data = path.read_bytes()
        changed = data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]
        path.unlink()
        renamed = bundle / layout.object_path(digest(changed))
        renamed.write_bytes(changed)
        sign_as_auditor(federation, bundle)
        assert failing_step(bundle, "object that is missing") == "entries"
        renamed.unlink()
        path.write_bytes(data)


# Removed, added, duplicated, reordered: files and lines


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (layout.CHARTER, "index"),
        (layout.GOVERNANCE_KEY, "charter"),
        (layout.CHECKPOINT, "checkpoint"),
        (layout.ENTRIES, "tree"),
        ("objects/*.json", "entries"),
        ("receipts/*.bin", "receipts"),
        ("ledgers/*.jsonl", "ledgers"),
        (layout.REPORT_JSON, "report"),
        (layout.REPORT_HTML, "report"),
        ("trust/*.json", "certificates"),
    ],
)
def test_a_removed_file_is_missed(
    federation: Federation, bundle: Path, pattern: str, expected: str
) -> None:
    for path in sorted(bundle.glob(pattern)):
        data = path.read_bytes()
        path.unlink()
        assert failing_step(bundle, "missing|has no") == "index"
        sign_as_auditor(federation, bundle)
        assert failing_step(bundle, "missing|has no") == expected
        path.write_bytes(data)
        sign_as_auditor(federation, bundle)


Lines = list[bytes]


def _drop_first(lines: Lines) -> Lines:
    return lines[1:]


def _drop_last(lines: Lines) -> Lines:
    return lines[:-1]


def _drop_middle(lines: Lines) -> Lines:
    return lines[:2] + lines[3:]


def _drop_all(_: Lines) -> Lines:
    return []


def _swap(lines: Lines) -> Lines:
    return [*lines[:1], lines[2], lines[1], *lines[3:]]


def _twice(lines: Lines) -> Lines:
    return [*lines[:2], *lines[1:]]


def _twice_at_the_end(lines: Lines) -> Lines:
    return [*lines, lines[-1]]


def _no_newline(lines: Lines) -> Lines:
    return [*lines[:-1], lines[-1][:-1]]


def _empty_line(lines: Lines) -> Lines:
    return [*lines, b"\n"]


LINES = [_drop_first, _drop_last, _drop_middle, _drop_all, _swap, _twice]
LINES += [_twice_at_the_end, _no_newline, _empty_line]


def _renumbered(lines: Lines) -> Lines:
    leaves = [base64.b64decode(json.loads(line)["entry"]) for line in lines]
    return [layout.entry_line(index, leaf) for index, leaf in enumerate(leaves)]


@pytest.mark.parametrize("change", LINES)
@pytest.mark.parametrize("renumber", [False, True])
def test_log_lines_cannot_be_dropped_doubled_or_moved(
    federation: Federation, bundle: Path, change: Callable[[Lines], Lines], renumber: bool
) -> None:
    path = bundle / layout.ENTRIES
    lines = change(path.read_bytes().splitlines(keepends=True))
    if renumber and change not in {_no_newline, _empty_line}:
        lines = _renumbered(lines)
    path.write_bytes(b"".join(lines))
    sign_as_auditor(federation, bundle)
    assert failing_step(bundle) == "tree"


@pytest.mark.parametrize("change", LINES)
@pytest.mark.parametrize("name", ["large-1", "small-2"])
def test_ledger_lines_cannot_be_dropped_doubled_or_moved(
    federation: Federation, bundle: Path, change: Callable[[Lines], Lines], name: str
) -> None:
    path = bundle / layout.ledger_path(name)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(change(lines)))
    sign_as_auditor(federation, bundle)
    if change is _drop_last:
        # The outcome of the last round: no chain shows that its end is missing, and it costs
        # nothing. The debits are pinned by the manifests, see test_verify_ledgers.
        verify_bundle(bundle)
    else:
        assert failing_step(bundle, layout.ledger_path(name)) == "ledgers"


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("ledgers/small-1.jsonl", "ledgers/small-2.jsonl", "ledgers"),
        ("receipts/small-1-1.bin", "receipts/small-2-1.bin", "receipts"),
        ("receipts/small-1-1.bin", "receipts/small-1-2.bin", "receipts"),
        ("ledgers/small-1.jsonl", "ledgers/stranger.jsonl", "ledgers"),
        ("receipts/small-1-1.bin", "receipts/small-1-3.bin", "receipts"),
        ("receipts/small-1-1.bin", "receipts/stranger-1.bin", "receipts"),
        (layout.INDEX, f"objects/{'0' * 64}.json", "entries"),
        (layout.CHECKPOINT, layout.GOVERNANCE_KEY, "charter"),
        (layout.CHECKPOINT, "log/cosigned/hospital-small-1.txt", "witnesses"),
        ("log/cosigned/hospital-small-1.txt", "log/cosigned/hospital-small-2.txt", "witnesses"),
        ("log/cosigned/hospital-small-1.txt", "log/cosigned/hospital-stranger.txt", "witnesses"),
        ("log/cosigned/hospital-small-1.txt", "log/cosigned/auditor-small-1.txt", "witnesses"),
        ("log/cosigned/auditor-auditor.txt", "log/cosigned/hospital-auditor.txt", "witnesses"),
    ],
)
def test_a_file_in_anothers_place_is_refused(
    federation: Federation, bundle: Path, source: str, target: str, expected: str
) -> None:
    shutil.copyfile(bundle / source, bundle / target)
    assert failing_step(bundle) == "index"
    sign_as_auditor(federation, bundle)
    assert failing_step(bundle) == expected


def test_an_object_that_the_log_does_not_name_is_refused(
    federation: Federation, bundle: Path
) -> None:
    extra = federation.state("small-1").signing_key().sign_document("manifest", {})
    (bundle / layout.object_path(digest(extra))).write_bytes(extra)
    sign_as_auditor(federation, bundle)
    assert failing_step(bundle, "named by no entry") == "entries"


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        ".hidden",
        "objects/short.json",
        "objects/" + "A" * 64 + ".json",
        "ledgers/Small.jsonl",
        "receipts/small-1-01.bin",
        "report/report.pdf",
        "log/entries.jsonl.bak",
        "log/cosigned/broker-broker.txt",
        "certificates/small-1.pem",
        "trust/1.json",
        "log/cosigned/hospital-Small.txt",
        "deep/er/file",
        "receipts/\x1b[31m.bin",
    ],
)
def test_a_file_without_a_place_is_refused(federation: Federation, bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle / name).write_bytes(b"x")
    sign_as_auditor(federation, bundle)
    assert failing_step(bundle, "has no place") == "index"
    with pytest.raises(StepFailed) as caught:
        verify_bundle(bundle)
    assert "\x1b" not in str(caught.value)


def test_links_and_devices_are_no_files(bundle: Path) -> None:
    html = bundle / layout.REPORT_HTML
    outside = bundle.parent / "outside"
    shutil.move(html, outside)
    html.symlink_to(outside)
    assert failing_step(bundle, "plain file") == "index"
    html.unlink()
    os.mkfifo(html)
    assert failing_step(bundle, "plain file") == "index"


def test_a_file_of_any_size_is_not_read(bundle: Path) -> None:
    with (bundle / layout.REPORT_HTML).open("ab") as file:
        file.truncate(layout.MAXIMUM_FILE_BYTES + 1)
    assert failing_step(bundle, "plain file") == "index"


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    assert failing_step(tmp_path / "nowhere", "not a directory") == "index"
    assert failing_step(tmp_path, "no index.json") == "index"


# The index


@pytest.mark.parametrize(
    "signer", [None, "small-1", Role.AGGREGATOR, Role.BROKER, Role.DECRYPTOR, "registrar"]
)
def test_an_index_by_anyone_but_an_auditor_is_refused(
    federation: Federation, bundle: Path, signer: str | Role | None
) -> None:
    key = federation.state(signer).signing_key() if signer else SigningKey.generate()
    sign_as_auditor(federation, bundle, key)
    assert failing_step(bundle, "not signed by an auditor") == "index"


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        (layout.INDEX_KIND, {}),
        (layout.INDEX_KIND, {"files": []}),
        (layout.INDEX_KIND, {"files": {}, "more": 1}),
        ("report", {"files": {}}),
    ],
)
def test_an_index_of_another_form_is_refused(
    federation: Federation, bundle: Path, kind: str, document: dict[str, Any]
) -> None:
    key = federation.state(Role.AUDITOR).signing_key()
    (bundle / layout.INDEX).write_bytes(key.sign_document(kind, document))
    assert failing_step(bundle) == "index"


@pytest.mark.parametrize(
    "auditors", [None, [], 5, ["key"], [{}], [{"signing_key": 5}], [{"signing_key": "AAAA"}]]
)
def test_a_charter_that_names_no_auditor_is_refused(
    federation: Federation, bundle: Path, auditors: object
) -> None:
    document = federation.charter.document() | {"auditors": auditors}
    (bundle / layout.CHARTER).write_bytes(
        federation.governance_key.sign_document("charter", document)
    )
    sign_as_auditor(federation, bundle)
    assert failing_step(bundle) == "index"


# The charter


def test_a_charter_by_another_governance_key_is_refused(
    federation: Federation, bundle: Path
) -> None:
    usurper = SigningKey.generate()
    envelope = usurper.sign_document("charter", federation.charter.document())
    (bundle / layout.CHARTER).write_bytes(envelope)
    sign_as_auditor(federation, bundle)
    assert failing_step(bundle) == "charter"
    (bundle / layout.GOVERNANCE_KEY).write_text(usurper.public.to_base64() + "\n")
    sign_as_auditor(federation, bundle)
    assert failing_step(bundle) == "certificates"
    (path,) = bundle.glob("trust/*.json")
    trusted = open_trust_list(path.read_bytes(), federation.governance_key.public)
    path.unlink()
    forged = sign_trust_list(trusted, usurper)
    (bundle / layout.trust_list_path(digest(forged))).write_bytes(forged)
    sign_as_auditor(federation, bundle)
    # Consistent in itself: only the key from elsewhere shows it.
    (warning,) = verify_bundle(bundle).warnings
    assert "fingerprint" in warning
    with pytest.raises(StepFailed) as caught:
        verify_bundle(bundle, governance_key=federation.governance_key.public)
    assert caught.value.title == "charter"


def test_a_signed_charter_outside_its_bounds_is_refused(
    federation: Federation, bundle: Path
) -> None:
    document = federation.charter.document()
    document["privacy"]["sigma_units"] //= 2
    (bundle / layout.CHARTER).write_bytes(
        federation.governance_key.sign_document("charter", document)
    )
    sign_as_auditor(federation, bundle)
    assert failing_step(bundle, "epsilon") == "charter"


def test_another_federations_charter_and_key_do_not_fit(
    federation: Federation, bundle: Path, tmp_path: Path
) -> None:
    other = make_federation(tmp_path / "other", large=1, small=2)
    (bundle / layout.CHARTER).write_bytes(other.charter_envelope)
    (bundle / layout.GOVERNANCE_KEY).write_text(other.governance_key.public.to_base64() + "\n")
    sign_as_auditor(federation, bundle)
    assert failing_step(bundle) == "index"
    sign_as_auditor(federation, bundle, other.state(Role.AUDITOR).signing_key())
    assert failing_step(bundle) == "checkpoint"


def test_governance_pub_has_one_spelling(federation: Federation, bundle: Path) -> None:
    path = bundle / layout.GOVERNANCE_KEY
    text = path.read_bytes()
    for other in (text[:-1], text + b"\n", b" " + text, b"\xff" + text, b"AAAA\n"):
        path.write_bytes(other)
        sign_as_auditor(federation, bundle)
        assert failing_step(bundle) == "charter"


# The tree against checkpoint and receipts


def test_a_log_cut_back_to_an_earlier_checkpoint_is_shown_by_receipts(
    story: Story, true_story: Story, tmp_path: Path
) -> None:
    whole = true_story.copy()
    whole.write(tmp_path / "whole")
    cut = story.index("round_summed") + 1
    story.entries = story.entries[:cut]
    story.objects = [
        envelope
        for envelope in story.objects
        if digest(envelope).encode() in b"".join(e.SerializeToString() for e in story.entries)
    ]
    assert whole.receipts is not None
    story.receipts = {key: data for key, data in whole.receipts.items() if key[1] == 1}
    story.report |= {"rounds": 1}
    # The first round's receipts fit the cut log; the second's show what was cut.
    verify = story.copy()
    verify.ledgers = {}
    assert failing_step(verify.write(tmp_path / "cut"), "contributed") == "ledgers"
    story.receipts = whole.receipts
    assert failing_step(story.write(tmp_path / "shown"), "does not have") == "receipts"


def test_two_histories_are_shown_by_a_receipt(
    story: Story, true_story: Story, tmp_path: Path
) -> None:
    whole = true_story.copy()
    whole.write(tmp_path / "whole")
    story.receipts = whole.receipts
    story.entries[0].unix_milliseconds += 1
    assert failing_step(story.write(tmp_path / "fork"), "not a beginning") == "receipts"
