from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhelp_secure.enrolment.token import LIMIT_CHARACTERS, JoinToken, TokenMalformed
from fedhelp_secure.transport.identity import Identity, Role

labels = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
HOSPITAL = Identity("example", Role.HOSPITAL, "small-1")


@settings(deadline=None)
@given(labels, st.sampled_from(Role), labels, st.sampled_from(("large", "small", None)))
def test_a_token_says_whom_it_is_for(
    federation: str, role: Role, name: str, group: str | None
) -> None:
    identity = Identity(federation, role, name)
    made = JoinToken.generate(identity, "small" if group else None)
    assert JoinToken.parse(made.text) == made
    assert len(made.text) <= LIMIT_CHARACTERS
    addressed = JoinToken.parse(f" {made.text}@registrar.example:7444\n")
    assert (addressed.text, addressed.digest) == (made.text, made.digest)
    assert addressed.address == "registrar.example:7444"


def test_secrets_have_256_bits_and_differ() -> None:
    secrets = {JoinToken.generate(HOSPITAL, "small").text.rpartition(".")[2] for _ in range(50)}
    assert len(secrets) == 50
    assert {len(base64.urlsafe_b64decode(secret + "=")) for secret in secrets} == {32}


def test_a_token_does_not_print_its_secret() -> None:
    token = JoinToken.generate(HOSPITAL, "small")
    secret = token.text.rpartition(".")[2]
    assert secret not in repr(token)
    assert secret not in str(token)
    assert secret not in token.digest


GOOD = "fhj1.example.hospital.small-1.small." + "A" * 43


def test_the_good_one_of_these_tests_is_good() -> None:
    assert JoinToken.parse(GOOD).identity == HOSPITAL


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fhj1",
        GOOD[:-1],
        GOOD + "A",
        GOOD.replace("fhj1", "fhj2"),
        GOOD.replace("hospital", "janitor"),
        GOOD.replace("small-1", "../x"),
        GOOD.replace("small-1", "-x"),
        GOOD.replace("small-1", "Small"),
        GOOD.replace(".small.", ".medium."),
        GOOD.replace("example", "a" * 64),
        GOOD + "@",
        GOOD + "@\x1b[31m:1",
        GOOD + "@host:1 x",
        GOOD + "\n" + GOOD,
        "x" * 10_000,
    ],
)
def test_what_is_no_token_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(TokenMalformed) as refused:
        JoinToken.parse(text)
    assert not text or text not in str(refused.value)
