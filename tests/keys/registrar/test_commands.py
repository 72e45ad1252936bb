"""Both sides' commands, in the order in which people use them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from fedhelp_keys.registrar.commands import app as keys_app
from fedhelp_secure.charter import open_charter
from fedhelp_secure.enrolment.commands import app as enrol_app
from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.secure_sum.ckks import generate_keys
from fedhelp_secure.state import StateDirectory

PLAN = """
name: pilot
task: classification
classes: [benign, malignant]
hospitals: [one, two, three]
weights: {large: 2, small: 1}
privacy: {epsilon: "3", delta: "1e-6", clip: "0.8", maximum_patients: 2000}
secure_sum: {fraction_bits: 12}
probe: {dimension: 8, ridge: "0.1", step: "1.0", nominal_patients: 300}
cohort: {minimum: 2, colluders: 1, minimum_large: 1, minimum_small: 1}
rounds: {count: 3, deadline_seconds: 600}
foundation_model: {purpose: proxy-embeddings, url: "https://127.0.0.1:9000", model: dinov2-small}
retention_days: 365
"""
PARTIES = {"aggregator": "one", "unmasker": "b", "broker": "one", "auditor": "one"}
HOSPITALS = {"one": "large", "two": "small", "three": "small"}


def run(app: Typer, *arguments: str | Path) -> str:
    """The command's output; raises what it raises."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def join(root: Path, role: str, name: str, *group: str) -> StateDirectory:
    """Request, enrolment and installation, by command."""
    state, request, bundle = root / f"{role}-{name}", root / "request.json", root / "bundle.json"
    identity = () if (state / "identity.json").exists() else _identity(role, name)
    run(enrol_app, "request", "--state", state, "--out", request, *identity)
    run(keys_app, "enrol", request, "--state", root / "registrar", "--out", bundle, *group)
    run(enrol_app, "install", "--state", state, bundle)
    return StateDirectory.open(state)


def _identity(role: str, name: str) -> tuple[str, ...]:
    return ("--federation", "testfed", "--role", role, "--name", name)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation made by commands alone."""
    root = tmp_path_factory.mktemp("federation")
    run(keys_app, "init", "--state", root / "registrar", "--federation", "testfed")
    state = root / "decryptor-a"
    run(enrol_app, "init", "--state", state, *_identity("decryptor", "a"))
    _, public = generate_keys()
    (StateDirectory.open(state).role_directory() / "context.public").write_bytes(public)
    join(root, "decryptor", "a")
    for role, name in PARTIES.items():
        join(root, role, name)
    for name, group in HOSPITALS.items():
        join(root, "hospital", name, "--group", group)
    return root


@pytest.fixture(scope="module")
def public_set(root: Path) -> Path:
    import numpy as np

    from fedhelp_secure.public_set import PublicSet, fit_projection

    generator = np.random.default_rng(1)
    embeddings = generator.normal(size=(20, 1, 32)).astype(np.float32)
    projection = fit_projection(embeddings, 8)
    images = generator.integers(0, 256, (20, 32, 24)).astype(np.uint8)
    path = root / "public.npz"
    PublicSet(images, projection.apply(embeddings), projection).save(path)
    return path


def make_charter(root: Path, public_set: Path, plan: str, *options: str) -> str:
    (root / "charter.yaml").write_text(plan)
    return run(
        keys_app,
        "charter",
        *("--state", root / "registrar", "--config", root / "charter.yaml"),
        *("--public-set", public_set, "--out", root / "charter.json"),
        *options,
    )


def test_commands_make_a_federation_and_its_charter(root: Path, public_set: Path) -> None:
    output = make_charter(root, public_set, PLAN, "--explain")
    for words in ("largest sum", "lanes in an element", "tags", "noise share, large"):
        assert words in " ".join(output.split())
    hospital = StateDirectory.open(root / "hospital-two")
    charter = open_charter((root / "charter.json").read_bytes(), hospital.governance_key())
    assert charter.hospital("two").group == "small"
    shown = run(keys_app, "show-charter", root / "charter.json", "--state", root / "hospital-two")
    assert charter.digest in shown
    assert "benign, malignant" in shown


def test_a_refused_charter_leaves_no_file(root: Path, public_set: Path) -> None:
    (root / "charter.json").unlink(missing_ok=True)
    with pytest.raises(FedHelpError, match="does not fit a ciphertext"):
        make_charter(
            root, public_set, PLAN.replace("2000", "1000000").replace("large: 2", "large: 64")
        )
    assert not (root / "charter.json").exists()


def test_both_sides_see_the_same_request_digest(root: Path, tmp_path: Path) -> None:
    asked = run(
        enrol_app,
        *("request", "--state", tmp_path / "s", "--out", tmp_path / "r"),
        *_identity("auditor", "two"),
    )
    enrolled = run(
        keys_app,
        *("enrol", tmp_path / "r", "--state", root / "registrar", "--out", tmp_path / "b"),
    )
    (digest,) = [word.rstrip(".") for word in asked.split() if word.startswith("sha256:")]
    assert digest in enrolled


def test_secrets_stay_with_their_owner(root: Path) -> None:
    for state in root.iterdir():
        for path in [state, *state.rglob("*")] if state.is_dir() else []:
            if path.name in {"context.public"}:
                continue
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("request", "--state", "none", "--out", "r"), "give --federation, --role and --name"),
        (("install", "--state", "none", "b"), "holds no identity"),
        (("renew", "--state", "none", "--registrar", "127.0.0.1:1"), "holds no identity"),
    ],
)
def test_a_missing_state_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FedHelpError, match=sentence):
        run(enrol_app, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [("--name", "other"), ("--role", "auditor"), ("--federation", "otherfed")],
)
def test_a_request_does_not_change_who_a_state_is(root: Path, options: tuple[str, str]) -> None:
    with pytest.raises(FedHelpError, match="belongs to spiffe://testfed/hospital/one"):
        run(
            enrol_app,
            *("request", "--state", root / "hospital-one", "--out", root / "r", *options),
        )


def test_the_registrars_commands_need_the_registrars_state(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FedHelpError, match="a registrar is needed"):
        run(
            keys_app,
            *("enrol", tmp_path / "r", "--state", root / "hospital-one", "--out", tmp_path / "b"),
        )
    with pytest.raises(FedHelpError, match="cannot be read"):
        run(
            keys_app,
            *("enrol", tmp_path / "r", "--state", root / "registrar", "--out", tmp_path / "b"),
        )


def test_a_governance_key_can_be_insisted_on(root: Path, tmp_path: Path) -> None:
    state = root / "hospital-three"
    run(enrol_app, "request", "--state", state, "--out", tmp_path / "r")
    run(
        keys_app,
        *("enrol", tmp_path / "r", "--state", root / "registrar", "--group", "small"),
        *("--out", tmp_path / "b"),
    )
    (tmp_path / "key").write_text("AAAA")
    with pytest.raises(FedHelpError, match="must have 32 bytes"):
        run(
            enrol_app,
            *("install", "--state", state, tmp_path / "b", "--governance-key", tmp_path / "key"),
        )
    run(
        enrol_app,
        *("install", "--state", state, tmp_path / "b"),
        *("--governance-key", state / "trust" / "governance.pub"),
    )
