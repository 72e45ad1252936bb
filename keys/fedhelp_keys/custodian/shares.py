"""n-of-m shares of a 256-bit key, as words on paper: SLIP-39, by its reference implementation.

Any ``threshold`` of the shares give the key back, fewer tell nothing of it (Shamir 1979). Every
share has a checksum, and the key a digest: a wrong word and a share of another set are noticed.
https://github.com/satoshilabs/slips/blob/master/slip-0039.md
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence

from shamir_mnemonic import MnemonicError, combine_mnemonics, generate_mnemonics
from shamir_mnemonic.wordlist import WORDLIST

from fedhelp_secure.errors import ConfigurationError

KEY_BYTES = 32
MOST_SHARES = 16
"""SLIP-39's own limit."""

_BITS_A_WORD = 10
_FINGERPRINT_BITS = 130


class SharesRefused(ConfigurationError):
    """The shares do not give a key, or not the one that is needed; or the numbers make no sense."""

    code = "shares"


def new_key() -> bytes:
    """A key to be shared, from the operating system."""
    return secrets.token_bytes(KEY_BYTES)


def split(key: bytes, *, threshold: int, shares: int) -> tuple[str, ...]:
    """``shares`` lines of words, any ``threshold`` of which give ``key`` back.

    Raises SharesRefused unless 2 <= threshold <= shares <= MOST_SHARES.
    """
    if not 2 <= threshold <= shares <= MOST_SHARES:
        raise SharesRefused(
            f"a key is shared among 2 to {MOST_SHARES} people, of whom at least 2 are needed; give "
            "--threshold and --shares so."
        )
    [made] = generate_mnemonics(1, [(threshold, shares)], key)
    for chosen in (made[:threshold], made[-threshold:]):
        if join(chosen) != key:
            raise SharesRefused("the shares do not give the key back; use none of them, report.")
    return tuple(made)


def join(lines: Iterable[str]) -> bytes:
    """The key that exactly ``threshold`` shares give; raises SharesRefused for anything else."""
    given = [" ".join(line.split()) for line in lines if line.strip()]
    if not given:
        raise SharesRefused("no share was given; give one a line, each as it was written down.")
    try:
        key: bytes = combine_mnemonics(given)
    except (MnemonicError, ValueError) as error:
        # The library's own sentence may quote words of a share.
        raise SharesRefused(
            f"the {len(given)} shares do not give a key: too few or too many of them, a word that "
            "was misread, or shares of different sets. Give exactly as many as are needed."
        ) from error
    if len(key) != KEY_BYTES:
        raise SharesRefused("these shares are of another kind of key; find this custodian's.")
    return key


def spoken(key_digest: str) -> tuple[str, str]:
    """A digest to read aloud: 128 bits in eight groups, and 130 bits as thirteen words."""
    digits = key_digest.removeprefix("sha256:")
    number = int(digits, 16) >> (256 - _FINGERPRINT_BITS)
    places: Sequence[int] = range(_FINGERPRINT_BITS - _BITS_A_WORD, -1, -_BITS_A_WORD)
    words = [WORDLIST[number >> place & 1023] for place in places]
    return " ".join(digits[place : place + 4] for place in range(0, 32, 4)), " ".join(words)
