from __future__ import annotations

import importlib
import pkgutil

import pytest

import fedhelp_secure.wire.v1
from fedhelp_secure.transport.access import ACCESS, AccessRefused, authorise
from fedhelp_secure.transport.identity import Identity, Role

PACKAGE = "fedhelp_secure.wire.v1"
EVERYONE = {"hospital", "aggregator", "decryptor", "unmasker", "broker", "registrar", "auditor"}

# Written out by hand, from the comments in proto/: a change of the table must be made twice.
EXPECTED = {
    "Coordinator/GetCharter": EVERYONE,
    "Coordinator/WatchRounds": {"hospital", "auditor"},
    "Coordinator/Contribute": {"hospital"},
    "Coordinator/FetchTeacher": {"hospital"},
    "Coordinator/GetReceipt": {"hospital"},
    "Coordinator/GetRoundKeys": {"hospital"},
    "Decryptor/GetPublicContext": {"registrar", "aggregator", "hospital", "auditor"},
    "Decryptor/BeginRound": {"aggregator"},
    "Decryptor/DecryptSum": {"aggregator"},
    "Unmasker/BeginRound": {"aggregator"},
    "Unmasker/UnmaskSum": {"aggregator"},
    "Broker/GetAnswer": {"hospital", "auditor"},
    "Evidence/GetCheckpoint": EVERYONE,
    "Evidence/GetInclusionProof": EVERYONE,
    "Evidence/GetConsistencyProof": EVERYONE,
    "Evidence/Cosign": {"hospital", "auditor"},
    "Evidence/ListEntries": EVERYONE,
    "Evidence/Submit": {"broker", "auditor", "hospital"},
    "Evidence/ListObjects": {"auditor"},
    "Evidence/ListCertificates": {"auditor"},
    "Enrolment/GetTrustBundle": EVERYONE,
    "Enrolment/Renew": EVERYONE,
    "Enrolment/RotateKeys": EVERYONE - {"registrar"},
    "Enrolment/GetTrustList": EVERYONE,
    "Joining/Join": set(),
}


def described_methods() -> set[str]:
    """Every RPC of every service in the generated descriptors."""
    methods = set()
    for module in pkgutil.iter_modules(fedhelp_secure.wire.v1.__path__):
        if not module.name.endswith("_pb2"):
            continue
        descriptor = importlib.import_module(f"{PACKAGE}.{module.name}").DESCRIPTOR
        for service in descriptor.services_by_name.values():
            methods |= {f"/{service.full_name}/{method.name}" for method in service.methods}
    return methods


def test_every_rpc_has_its_row_and_no_row_is_left_over() -> None:
    methods = described_methods()
    assert len(methods) == 25
    assert methods == set(ACCESS)


def test_the_table_is_exactly_this() -> None:
    written = {method: {role.value for role in roles} for method, roles in sorted(ACCESS.items())}
    assert written == {f"/{PACKAGE}.{method}": roles for method, roles in EXPECTED.items()}


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        ACCESS["/x/Y"] = frozenset(Role)  # type: ignore[index]


@pytest.mark.parametrize("method", sorted(EXPECTED))
@pytest.mark.parametrize("role", list(Role))
def test_a_role_is_let_in_where_the_table_says_and_nowhere_else(method: str, role: Role) -> None:
    calling = Identity("testfed", role, "somebody")
    serving = Identity("testfed", Role.AGGREGATOR, "aggregator")
    if role.value in EXPECTED[method]:
        authorise(f"/{PACKAGE}.{method}", calling, serving)
        return
    with pytest.raises(AccessRefused, match=f"a {role.value} may not call"):
        authorise(f"/{PACKAGE}.{method}", calling, serving)


@pytest.mark.parametrize(
    "method", ["", "/", "/fedhelp_secure.wire.v1.Coordinator/Unknown", "GetCharter", "/*"]
)
def test_a_method_without_a_row_is_denied_to_everyone(method: str) -> None:
    serving = Identity("testfed", Role.AGGREGATOR, "aggregator")
    for role in Role:
        with pytest.raises(AccessRefused):
            authorise(method, Identity("testfed", role, "somebody"), serving)


def test_another_federation_is_denied_everything() -> None:
    serving = Identity("testfed", Role.AGGREGATOR, "aggregator")
    for method in ACCESS:
        for role in Role:
            with pytest.raises(AccessRefused, match="another federation"):
                authorise(method, Identity("otherfed", role, "somebody"), serving)
