"""The custodians' keys of a round, for tests: as their own stores state them, or without stores."""

from __future__ import annotations

from functools import lru_cache

from support.federation import Federation

from fedhelp_keys.custodian.epochs import EpochStore
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.secure_sum.ckks import PublicContext
from fedhelp_secure.secure_sum.round_keys import (
    RoundKeys,
    begin_under_first_epochs,
    custodian_parties,
    open_round_keys,
)
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.wire.v1.coordinator_pb2 import CustodianKeys


def stated_by_stores(
    federation: Federation, charter: Charter, round_number: int = 1
) -> tuple[CustodianKeys, ...]:
    """What every custodian's own store states; running services on these states say the same."""
    return tuple(
        EpochStore(federation.state(party.identity.name)).begin(charter, round_number)
        for party in custodian_parties(charter)
    )


def rounds_begun(federation: Federation, charter: Charter, round_number: int = 1) -> list[bytes]:
    """The ``round-begun`` statements among them."""
    return [keys.round_begun for keys in stated_by_stores(federation, charter, round_number)]


def keys_of_stores(federation: Federation, charter: Charter, round_number: int = 1) -> RoundKeys:
    """The keys that `stated_by_stores` proves."""
    return open_round_keys(
        charter, round_number, stated_by_stores(federation, charter, round_number)
    )


def context_of(federation: Federation, charter: Charter, context_digest: str) -> PublicContext:
    """The decryptor's public context of this digest, of whatever epoch."""
    for path in federation.state("decryptor").role_directory().rglob("*.public"):
        if digest(path.read_bytes()) == context_digest:
            return PublicContext(path.read_bytes(), charter.secure_sum)
    raise AssertionError("the decryptor has no such context")


def stated_at_first(
    federation: Federation, charter: Charter, round_number: int = 1
) -> tuple[CustodianKeys, ...]:
    """Statements under the charter's own keys that no store knows of; the same every time."""
    names = [party.identity.name for party in custodian_parties(charter)]
    keys = tuple((name, federation.state(name).signing_key().to_pem()) for name in names)
    return _stated(charter, round_number, keys)


def keys_at_first(federation: Federation, charter: Charter, round_number: int = 1) -> RoundKeys:
    """The keys that `stated_at_first` proves."""
    return open_round_keys(
        charter, round_number, stated_at_first(federation, charter, round_number)
    )


@lru_cache(maxsize=64)
def _stated(
    charter: Charter, round_number: int, keys: tuple[tuple[str, bytes], ...]
) -> tuple[CustodianKeys, ...]:
    signing_keys = {name: SigningKey.from_pem(pem) for name, pem in keys}
    return begin_under_first_epochs(charter, round_number, signing_keys, now=utc_now())
