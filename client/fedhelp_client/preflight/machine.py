"""Checks of this machine: software, state directory, certificate, disk, data folder."""

from __future__ import annotations

import platform
import shutil
import stat
from collections import defaultdict
from collections.abc import Iterable
from importlib.metadata import version

from fedhelp_client.data.folder import load_folder
from fedhelp_client.data.types import SEGMENTATION_CLASSES, DataError, Dataset
from fedhelp_client.preflight.outcome import Outcome, failed, passed, warned
from fedhelp_client.preflight.site import Site
from fedhelp_secure.charter import Charter
from fedhelp_secure.provenance import UNKNOWN, source_commit
from fedhelp_secure.secure_sum.bodies import body_bytes
from fedhelp_secure.transport.certificates import own_tls_files, utc_now
from fedhelp_secure.transport.chain import check_own_certificate
from fedhelp_secure.trust.store import TrustStore

_LIBRARIES = ("cryptography", "grpcio", "numpy", "torch")
_OTHER_FILES_BYTES = 256 << 20
"""Ledger, receipts, models and logs of one charter."""

MINIMUM_PATIENTS = 10
MINIMUM_OF_A_CLASS = 2
"""Patients below which training and release make no sense; ours, no promise of utility."""

LESION = SEGMENTATION_CLASSES.index("lesion")


def software(site: Site) -> Outcome:
    """The versions that will run; core and client must be of one release."""
    core, client = version("fedhelp-secure"), version("fedhelp-client")
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    commit = source_commit("fedhelp-client")
    source = "" if commit == UNKNOWN else f" ({commit})"
    said = f"fedhelp {core}{source}, Python {platform.python_version()}, {libraries}"
    if core != client:
        return failed(f"fedhelp-secure {core} and fedhelp-client {client}: install one release.")
    return passed(said)


def state_directory(site: Site) -> Outcome:
    """A hospital's, complete, and closed to every other user, down to the last file."""
    state = site.state
    if state.root.is_symlink():
        return failed("the state directory is a link: name the directory itself with --state.")
    for path in (state.root, *state.root.rglob("*")):
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            return failed(f"{path} is a link: the state directory holds its own files only.")
        if stat.S_IMODE(found.st_mode) & 0o077:
            return failed(f"{path} is open to other users; run: chmod -R go-rwx '{state.root}'")
        if found.st_uid != state.root.stat().st_uid:
            return failed(f"{path} belongs to another user than the directory; run chown.")
    return passed(f"{state.identity}, owner-only throughout")


def certificate(site: Site) -> Outcome:
    """This party's, for its key, from the federation's authority, in its period."""
    state = site.state
    now = utc_now()
    trusted = TrustStore(state).current()
    own = check_own_certificate(state.identity, own_tls_files(state), trusted, now=now)
    left = own.not_valid_after_utc - now
    said = f"{state.identity.uri}, issued by the federation's authority, {left.days} days left"
    if 3 * left < own.not_valid_after_utc - own.not_valid_before_utc:
        return warned(f"{said}: less than a third of its life; renew it now.")
    return passed(said)


def disk(site: Site) -> Outcome:
    """Room for every round's ciphertext, one round's answers, and all else."""
    needed, free = disk_bytes(site.charter), shutil.disk_usage(site.state.root).free
    said = f"{_mebibytes(needed)} needed at most, {_mebibytes(free)} free"
    if free < needed:
        return failed(f"{said}; make room, or move the state directory.")
    return warned(f"{said}: less than twice as much.") if free < 2 * needed else passed(said)


def disk_bytes(charter: Charter) -> int:
    """Bytes that a node's state may grow by under ``charter``.

    The node keeps the ciphertext of each round, and the answers of the round that it opens.
    """
    answers = 1 + len(charter.custodians.unmaskers)
    return (
        charter.rounds.count * charter.secure_sum.ciphertext_bytes
        + answers * body_bytes(charter.secure_sum)
        + _OTHER_FILES_BYTES
    )


def data_folder(site: Site) -> Outcome:
    """Readable, with the charter's classes, and neither too few patients nor too many.

    It says no more: a count, a line or a file's name would be about patients.
    """
    charter = site.charter
    if charter.task == "segmentation" and charter.classes != SEGMENTATION_CLASSES:
        return failed("the charter's classes are not those of a segmentation.")
    try:
        dataset = load_folder(site.data, charter.task, classes=charter.classes)
    except DataError as error:
        return failed(
            f"refused with code {error.code}; run 'fedhelp client data check' on this machine, "
            "which says where."
        )
    if len(dataset.patients()) > charter.privacy.maximum_patients:
        return failed("readable, the charter's classes, but more patients than the charter counts.")
    # An image without a lesion is not needed to learn what one looks like.
    needed = (LESION,) if charter.task == "segmentation" else range(len(dataset.classes))
    enough = _has_enough(dataset, needed)
    said = f"readable, the charter's classes, patients: {'enough' if enough else 'too few'}"
    return passed(said) if enough else failed(f"{said} to train on or to release.")


def _has_enough(dataset: Dataset, labels: Iterable[int]) -> bool:
    of_class: dict[int, set[str]] = defaultdict(set)
    for example in dataset.examples:
        of_class[example.label].add(example.patient)
    return len(dataset.patients()) >= MINIMUM_PATIENTS and all(
        len(of_class[label]) >= MINIMUM_OF_A_CLASS for label in labels
    )


def _mebibytes(size: int) -> str:
    return f"{-(-size // (1 << 20)):,} MiB"
