from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.charters import make_charter_kit

import fedhelp_secure.policy
from fedhelp_secure.policy import SitePolicy, SitePolicyInvalid, SitePolicyRefuses
from fedhelp_secure.signing import SigningKey

KIT = make_charter_kit()

FULL = """
epsilon: "3"
epsilon_collusion: 12.5
lifetime_epsilon: 10
lifetime_delta: "1e-7"
delta: "1e-6"
tasks: [classification]
mechanisms: [probe, logit_noise]
foundation_model_hosts: [127.0.0.1, fm.example.org]
minimum_cohort: 5
minimum_unmaskers: 1
maximum_images: 100
hours: {days: [mon, sun], begin: "22:00", end: "05:30", time_zone: Europe/Berlin}
"""


def written(path: Path, text: str) -> Path:
    file = path / "policy.yaml"
    file.write_text(text)
    return file


def test_a_full_policy_is_read_and_a_charter_that_keeps_it_passes(tmp_path: Path) -> None:
    policy = SitePolicy.load(written(tmp_path, FULL))
    assert policy.epsilon_collusion == "12.5"
    assert policy.lifetime_epsilon == "10"
    assert policy.tasks == ("classification",)
    policy.check(KIT.charter())


def test_the_sample_in_the_documentation_is_a_policy(tmp_path: Path) -> None:
    documentation = fedhelp_secure.policy.__doc__ or ""
    sample = documentation.split("::\n", 1)[1]
    policy = SitePolicy.load(written(tmp_path, sample))
    assert policy.model_fields_set == set(SitePolicy.model_fields)


def test_the_sample_for_the_security_engineer_is_a_policy(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "security-engineer.md").read_text()
    (sample,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    policy = SitePolicy.load(written(tmp_path, sample))
    assert policy.hours is not None
    assert len(policy.model_fields_set) == 11


def test_an_empty_policy_sets_no_limit() -> None:
    SitePolicy().check(KIT.charter(privacy={"epsilon": "8"}))


@pytest.mark.parametrize(
    ("limits", "overrides", "reason"),
    [
        ({"epsilon": "2.999999"}, {}, "epsilon 3"),
        ({"epsilon": "3"}, {"privacy": {"epsilon": "3.01"}}, "epsilon 3.01"),
        ({"delta": "1e-7"}, {}, "delta"),
        ({"tasks": ("segmentation",)}, {}, "task classification"),
        ({"minimum_cohort": 6}, {}, "at least 6"),
        ({"mechanisms": ("dp_sgd",)}, {}, "mechanism probe"),
        ({"minimum_unmaskers": 2}, {}, "at least 2 unmaskers"),
        ({"maximum_images": 99}, {}, "at most 99"),
        ({"maximum_images": 2}, {"privacy": {"maximum_images": 3}}, "up to 3 images"),
        ({"charters": ("sha256:" + "0" * 64,)}, {}, "does not name the charter sha256:"),
        ({"foundation_model_hosts": ("fm.example.org",)}, {}, "host"),
        (
            {"foundation_model_hosts": ("fm.example.org",)},
            {"foundation_model": {"url": "https://fm.example.org.evil.net"}},
            "host",
        ),
        (
            {"foundation_model_hosts": ("fm.example.org",)},
            {"foundation_model": {"url": "https://evil.net/fm.example.org"}},
            "host",
        ),
    ],
)
def test_a_charter_that_breaks_a_limit_is_refused(
    limits: dict[str, Any], overrides: dict[str, Any], reason: str
) -> None:
    with pytest.raises(SitePolicyRefuses, match=reason):
        SitePolicy(**limits).check(KIT.charter(**overrides))


def test_a_charter_is_allowed_by_digest_and_by_signer() -> None:
    charter, signer = KIT.charter(), SigningKey.generate().public
    policy = SitePolicy(charters=(charter.digest,), charter_signers=(signer.to_base64(),))
    policy.check(charter)
    policy.check_signer(signer)
    SitePolicy().check_signer(signer)
    with pytest.raises(SitePolicyRefuses, match="charter_signers"):
        policy.check_signer(SigningKey.generate().public)


def test_a_model_in_a_file_is_at_no_host() -> None:
    local = {"provider": "local-onnx", "url": None, "weights_digest": "sha256:" + "0" * 64}
    SitePolicy(foundation_model_hosts=("fm.example.org",)).check(
        KIT.charter(foundation_model=local)
    )


def test_a_host_is_compared_without_port_and_case() -> None:
    policy = SitePolicy(foundation_model_hosts=("fm.example.org",))
    policy.check(KIT.charter(foundation_model={"url": "https://FM.Example.org:8443/v2"}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just words",
        "[1, 2]",
        "epsilon: 3\nepsilon: 9",
        "{epsilon: 3, epsilon: 9}",
        "epsilon: many",
        "epsilon: -1",
        "epsilon: .inf",
        "epsilon: .nan",
        "epsilon: true",
        "epsilon: 0.00000001",
        'epsilon: "1/3"',
        "epsilom: 3",
        "delta: 0.000001",
        'delta: "0.5"',
        "tasks: []",
        "tasks: classification",
        "tasks: [regression]",
        "foundation_model_hosts: []",
        "foundation_model_hosts: ['https://fm.example.org']",
        "minimum_cohort: 1",
        "minimum_cohort: 5.5",
        "epsilon: !!python/object/apply:os.getcwd []",
        "epsilon: 2026-01-01",
        "mechanisms: []",
        "minimum_unmaskers: 0",
        "maximum_images: 0",
        "charters: []",
        "charters: [abc]",
        "charter_signers: [abc]",
        "hours: {days: [], begin: '08:00', end: '09:00', time_zone: UTC}",
        "hours: {days: [monday], begin: '08:00', end: '09:00', time_zone: UTC}",
        "hours: {days: [mon], begin: '8:00', end: '09:00', time_zone: UTC}",
        "hours: {days: [mon], begin: '08:00', end: '24:00', time_zone: UTC}",
        "hours: {days: [mon], begin: 20:00, end: 21:00, time_zone: UTC}",
        "hours: {days: [mon], begin: '08:00', end: '09:00'}",
        "hours: {days: [mon], begin: '08:00', end: '09:00', time_zone: Mars/Olympus}",
        "hours: {days: [mon], begin: '08:00', end: '09:00', time_zone: ../../etc/passwd}",
        "hours: {days: [mon], begin: '08:00', end: '09:00', time_zone: /etc/localtime}",
        "a: &a [*a]",
        "? [1, 2]\n: 3",
        "? {a: 1}\n: 3",
        "epsilon: [",
        "epsilon: \x00",
        "[" * 3000,
        "x" * (1 << 17),
    ],
)
def test_a_file_that_is_no_policy_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SitePolicyInvalid, match=r"policy\.yaml"):
        SitePolicy.load(written(tmp_path, text))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(SitePolicyInvalid):
        SitePolicy.load(tmp_path / "policy.yaml")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SitePolicyInvalid, match="cannot be read"):
        SitePolicy.load(tmp_path / "none.yaml")


def test_a_policy_written_as_yaml_reads_back(tmp_path: Path) -> None:
    policy = SitePolicy.load(written(tmp_path, FULL))
    again = SitePolicy.load(written(tmp_path, yaml.safe_dump(policy.model_dump(mode="json"))))
    assert again == policy
