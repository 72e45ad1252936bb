"""Step 14: certificates at the time, the trust lists they hang from, and revocations."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from support.evidence import Story
from support.federation import join
from support.pki import Wish, certify

from fedhelp_secure.canonical import digest
from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.bundle import sign_index
from fedhelp_secure.evidence.verify import StepFailed, verify_bundle
from fedhelp_secure.evidence.verify_certificates import LONGEST_CALL
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.transport.certificates import load_certificate, utc_now
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.governance import sign_succession
from fedhelp_secure.trust.store import CLOCK_SKEW, TrustStore
from fedhelp_secure.trust.trust_list import TrustList, sign_trust_list


def failure(story: Story, bundle: Path) -> str:
    sign_index(bundle, story.federation.state(Role.AUDITOR))
    with pytest.raises(StepFailed) as caught:
        verify_bundle(bundle)
    assert (caught.value.number, caught.value.title) == (14, "certificates")
    return str(caught.value)


def passes(story: Story, bundle: Path) -> str:
    sign_index(bundle, story.federation.state(Role.AUDITOR))
    return verify_bundle(bundle).steps[13].finding


def trusted_of(story: Story) -> TrustList:
    return TrustStore(story.federation.state(Role.AGGREGATOR)).current()


def put_list(story: Story, bundle: Path, **update: object) -> Path:
    """The trust list with ``update``, as the registrar would sign it, beside the other."""
    changed = TrustList.model_validate(trusted_of(story).model_dump() | update)
    envelope = sign_trust_list(changed, story.federation.governance_key)
    path = bundle / layout.trust_list_path(digest(envelope))
    path.write_bytes(envelope)
    return path


def put_chain(bundle: Path, chain: bytes) -> None:
    (bundle / layout.certificate_path(digest(chain))).write_bytes(chain)


def of(story: Story, name: str) -> bytes:
    return story.federation.state(name).tls_certificate_path.read_bytes()


@pytest.mark.parametrize("name", ["small-1", "large-1", "broker", "aggregator"])
def test_each_acting_party_needs_one(story: Story, tmp_path: Path, name: str) -> None:
    bundle = story.write(tmp_path / "bundle")
    (bundle / layout.certificate_path(digest(of(story, name)))).unlink()
    assert "has no certificate of" in failure(story, bundle)


def test_a_party_that_did_nothing_needs_none(story: Story, tmp_path: Path) -> None:
    bundle = story.write(tmp_path / "bundle")
    (bundle / layout.certificate_path(digest(of(story, "auditor")))).unlink()
    assert passes(story, bundle).startswith("6 certificates")


def test_one_of_another_time_does_not_do(story: Story, tmp_path: Path) -> None:
    leaf = load_certificate(of(story, "small-1"))
    begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    second = datetime.timedelta(seconds=1)
    last = datetime.timedelta(milliseconds=len(story.entries))
    for number, (moment, good) in enumerate(
        (
            (begins - CLOCK_SKEW - 2 * second, False),
            (begins, True),
            (ends, True),
            (ends + LONGEST_CALL - last - second, True),
            (ends + LONGEST_CALL + second, False),
        )
    ):
        told = story.copy()
        told.begun = int(moment.timestamp())
        for index, entry in enumerate(told.entries):
            entry.unix_milliseconds = 1000 * told.begun + index
        told.receipts = None
        told.cosigned = None
        bundle = told.write(tmp_path / str(number))
        if good:
            passes(told, bundle)
        else:
            assert "that was valid then" in failure(told, bundle)


def test_one_of_another_authority_is_refused(story: Story, tmp_path: Path) -> None:
    bundle = story.write(tmp_path / "bundle")
    small = story.federation.state("small-1").identity
    put_chain(bundle, foreign(small))
    failure(story, bundle)


def foreign(identity: Identity) -> bytes:
    """A certificate for ``identity`` by an authority that nobody trusts."""
    now = utc_now()
    root = certify(Wish(subject="CN=elsewhere", ca=True), None, now=now)
    names = [x509.UniformResourceIdentifier(identity.uri)]
    return certify(Wish(subject="CN=small-1", names=names), root, now=now).pem


def test_one_of_nobody_in_the_charter_is_refused(story: Story, tmp_path: Path) -> None:
    federation = story.federation
    stranger = Identity(story.charter.federation, Role.HOSPITAL, "stranger")
    state = join(federation.state("registrar"), tmp_path / "states", stranger)
    bundle = story.write(tmp_path / "bundle")
    put_chain(bundle, state.tls_certificate_path.read_bytes())
    assert "whom the charter does not name" in failure(story, bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + b"x",
        lambda data: b"",
        lambda data: b"-----BEGIN CERTIFICATE-----\n",
        lambda data: data * 9,
    ],
)
def test_what_is_no_chain_is_refused(
    story: Story, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    bundle = story.write(tmp_path / "bundle")
    data = of(story, "small-1")
    (bundle / layout.certificate_path(digest(data))).write_bytes(change(data))
    assert "does not hash to its name" in failure(story, bundle)
    (bundle / layout.certificate_path(digest(data))).write_bytes(data)
    passes(story, bundle)
    if change(data) != data + b"x":
        put_chain(bundle, change(data))
        failure(story, bundle)


def test_a_revoked_party_that_acts_is_found(story: Story, tmp_path: Path) -> None:
    trusted = trusted_of(story)
    uri = story.federation.state("small-1").identity.uri
    moment = datetime.datetime.fromtimestamp(story.begun, datetime.UTC)
    late = moment - datetime.timedelta(seconds=trusted.maximum_age_seconds)
    second = datetime.timedelta(seconds=1)
    for number, (revoked, good) in enumerate(
        ((late + second, True), (moment + second, True), (late - second, False))
    ):
        entry = {
            "identity": uri,
            "reason": "stolen laptop",
            "revoked": revoked.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        bundle = story.copy().write(tmp_path / str(number))
        put_list(story, bundle, sequence=trusted.sequence + 1, revocations=(entry,))
        if good:
            assert "1 revoked" in passes(story, bundle)
        else:
            assert "acted all the same" in failure(story, bundle)


def test_trust_lists_are_signed_and_of_this_federation(story: Story, tmp_path: Path) -> None:
    bundle = story.write(tmp_path / "bundle")
    path = put_list(story, bundle, sequence=7)
    assert "trust list 7" in passes(story, bundle)
    path.write_bytes(path.read_bytes() + b" ")
    assert "does not hash to its name" in failure(story, bundle)
    path.unlink()
    put_list(story, bundle, federation="elsewhere", revocations=())
    assert "another federation" in failure(story, bundle)


def handed_over(story: Story, bundle: Path, **update: object) -> SigningKey:
    """A list of a new governance key, whose key is returned; ``update`` as for `put_list`."""
    new, present = SigningKey.generate(), trusted_of(story)
    succession = sign_succession(
        present.federation, present.sequence + 1, story.federation.governance_key, new, charters=[]
    )
    fields = {"sequence": present.sequence + 1, "governance": (succession.decode(),)}
    changed = TrustList.model_validate(present.model_dump() | fields | update)
    envelope = sign_trust_list(changed, new)
    (bundle / layout.trust_list_path(digest(envelope))).write_bytes(envelope)
    return new


def test_a_list_may_be_of_the_governance_keys_successor(story: Story, tmp_path: Path) -> None:
    bundle = story.write(tmp_path / "bundle")
    sequence = trusted_of(story).sequence + 1
    handed_over(story, bundle)
    assert f"trust list {sequence}, " in passes(story, bundle)


def test_a_list_of_the_former_key_after_the_succession_is_refused(
    story: Story, tmp_path: Path
) -> None:
    bundle = story.write(tmp_path / "bundle")
    put_list(story, bundle, sequence=trusted_of(story).sequence + 1)
    assert "7 certificates" in passes(story, bundle)
    handed_over(story, bundle)
    assert "had been succeeded" in failure(story, bundle)


def test_a_list_of_a_stranger_that_names_a_succession_is_refused(
    story: Story, tmp_path: Path
) -> None:
    bundle = story.write(tmp_path / "bundle")
    stranger, new, present = SigningKey.generate(), SigningKey.generate(), trusted_of(story)
    succession = sign_succession(
        present.federation, present.sequence + 1, stranger, new, charters=[]
    )
    handed_over(story, bundle, governance=(succession.decode(),))
    assert "governance key" in failure(story, bundle)
