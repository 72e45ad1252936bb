"""Signers' URIs: what is taken, and what is refused with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedhelp_secure.keystore.uri import FileUri, SignerUriRefused, TokenUri, parse

MODULE = "module-path=/usr/lib/softhsm/libsofthsm2.so"


def test_files() -> None:
    assert parse("file:") == FileUri(None)
    assert parse("file:/media/ca.pem") == FileUri(Path("/media/ca.pem"))
    assert parse("file:///media/the%20ca.pem") == FileUri(Path("/media/the ca.pem"))
    assert str(parse("file:///media/the%20ca.pem")) == "file:///media/the%20ca.pem"


def test_tokens() -> None:
    text = (
        "pkcs11:token=The%20HSM;serial=a1;manufacturer=SoftHSM%20project;model=v2;object=ca%3b1;"
        f"id=%01%ff;type=private?pin-source=file:/run/pin&{MODULE}"
    )
    assert parse(text) == TokenUri(
        text,
        Path("/usr/lib/softhsm/libsofthsm2.so"),
        token="The HSM",  # noqa: S106 (a label)
        manufacturer="SoftHSM project",
        serial="a1",
        model="v2",
        object="ca;1",
        id=b"\x01\xff",
        pin_source=Path("/run/pin"),
    )
    least = parse(f"pkcs11:serial=a1;id=%01?{MODULE}")
    assert isinstance(least, TokenUri)
    assert (least.serial, least.id, least.object, least.pin_source) == ("a1", b"\x01", None, None)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "file: or pkcs11:"),
        ("/media/ca.pem", "file: or pkcs11:"),
        ("hsm:token=a", "file: or pkcs11:"),
        ("file:ca.pem", "absolute path"),
        ("file://elsewhere/ca.pem", "absolute path"),
        ("file:/ca.pem?pin=1", "absolute path"),
        (f"pkcs11:token=a;object=b?pin-value=1234&{MODULE}", "leave pin-value out"),
        (f"pkcs11:token=a;object=b;pin-value=1234?{MODULE}", "leave pin-value out"),
        ("pkcs11:token=a;object=b", "must name the token's library"),
        ("pkcs11:token=a;object=b?module-path=softhsm2.so", "must name the token's library"),
        (f"pkcs11:object=b?{MODULE}", "one token"),
        (f"pkcs11:token=a?{MODULE}", "one key"),
        (f"pkcs11:token=a;object=b;type=public?{MODULE}", "private key"),
        (f"pkcs11:token=a;token=c;object=b?{MODULE}", "once there"),
        (f"pkcs11:token=a;object=b;color=red?{MODULE}", "once there"),
        (f"pkcs11:token=a;object=?{MODULE}", "once there"),
        (f"pkcs11:token=a;object?{MODULE}", "once there"),
        (f"pkcs11:token=a;object=b?{MODULE}&module-name=x", "once there"),
        (f"pkcs11:token=a;object=b?{MODULE}&pin-source=pin", "absolute path"),
        (f"pkcs11:token=a;object=b?{MODULE}&pin-source=%7C/bin/pin", "absolute path"),
        (f"pkcs11:token=%ff;object=b?{MODULE}", "UTF-8"),
        (f"pkcs11:token=a\x1b[2J;object=b?{MODULE}", "printable ASCII"),
        (f"pkcs11:token=schlüssel;object=b?{MODULE}", "printable ASCII"),
    ],
)
def test_others_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(SignerUriRefused, match=sentence) as refused:
        parse(text)
    assert "1234" not in str(refused.value)
