"""What the checks look at: the options of one preflight, each thing read once and changed never."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.policy import SitePolicy
from fedhelp_secure.signing import VerifyingKey
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.charters import OwnCharter, open_own_charter


@dataclass(frozen=True)
class Site:
    """A node as it would be started. Properties raise the FedHelpError of what they cannot read."""

    root: Path
    """The state directory."""
    charter_file: Path
    policy_file: Path | None
    data: Path
    aggregator_address: str
    """host:port."""
    broker_address: str
    """host:port."""
    public_set: Path | None = None
    context: Path | None = None

    @cached_property
    def state(self) -> StateDirectory:
        """Raises StateError, also for a directory that others may read."""
        return StateDirectory.open(self.root, Role.HOSPITAL)

    @cached_property
    def envelope(self) -> bytes:
        """The charter's DSSE envelope; raises ConfigurationError."""
        return _read(self.charter_file)

    @property
    def charter(self) -> Charter:
        """Raises SignatureRefused or CharterRefused unless it is signed, and sound."""
        return self._opened.charter

    @property
    def signer(self) -> VerifyingKey:
        """The governance key that signed the charter; raises as `charter` does."""
        return self._opened.signer

    @cached_property
    def _opened(self) -> OwnCharter:
        return open_own_charter(self.state, self.envelope)

    @cached_property
    def policy(self) -> SitePolicy:
        """Raises SitePolicyInvalid; without a file, no limits."""
        return SitePolicy() if self.policy_file is None else SitePolicy.load(self.policy_file)

    @property
    def policy_digest(self) -> str:
        """Of the policy's file, ``none`` without one."""
        return "none" if self.policy_file is None else digest(_read(self.policy_file))

    @property
    def aggregator(self) -> Identity:
        """Whom the node expects at ``aggregator_address``."""
        return Identity(self.charter.federation, Role.AGGREGATOR, self.charter.aggregator.name)

    @property
    def broker(self) -> Identity:
        """Whom the node expects at ``broker_address``."""
        return Identity(self.charter.federation, Role.BROKER, self.charter.broker.name)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read; give the path of that file.") from error
