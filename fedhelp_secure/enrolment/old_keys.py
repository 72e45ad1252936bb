"""The end of keys that a rotation replaced."""

from __future__ import annotations

from fedhelp_secure.errors import PolicyError
from fedhelp_secure.keystore.generations import Generation
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.identity import Role


class OldKeysNeeded(PolicyError):
    """Something is under way for which the old keys are needed."""

    code = "old-keys-needed"


def destroy_old_keys(state: StateDirectory, *, abandon: bool = False) -> tuple[Generation, ...]:
    """Overwrite and remove the private keys of all former generations; returns those.

    A hospital's ledger is handed over to the present key first. Whether a charter is over is known
    to a hospital alone, from its ledger: with rounds whose sums may still come it raises
    OldKeysNeeded unless ``abandon``. For the others it is for their operator to know.
    """
    if state.identity.role is Role.HOSPITAL:
        _prepare_ledger(state, abandon=abandon)
    if (
        state.identity.role is Role.REGISTRAR
        and state.governance_key() != state.signing_key().public
    ):
        raise OldKeysNeeded(
            "the present governance key is in no trust list yet: run 'fedhelp keys trust' first, "
            "so that the old key hands over to it."
        )
    return state.destroy_former_keys()


def _prepare_ledger(state: StateDirectory, *, abandon: bool) -> None:
    # Here, not above: enrolment needs no accounting.
    from fedhelp_secure.privacy.ledger import Ledger
    from fedhelp_secure.privacy.ledger_file import ledger_path

    if not state.generations() or not ledger_path(state).exists():
        return
    ledger = Ledger.of(state)
    unfinished = ledger.account().unfinished
    if unfinished and not abandon:
        charter, number = unfinished[0]
        raise OldKeysNeeded(
            f"round {number} of charter {charter} may still be opened, perhaps with the old keys; "
            "let it end, or give it up for good with --abandon."
        )
    ledger.hand_over()
