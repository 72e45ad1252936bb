"""Where everything is in an auditor's bundle.

::

    charter.json                  the charter's envelope
    governance.pub                base64 of the key that signed it
    log/entries.jsonl             {"entry": base64, "index": i}, one canonical JSON object a line
    log/checkpoint.txt            the signed checkpoint over all of them
    log/cosigned/<role>-<name>.txt  the newest checkpoint that a witness has cosigned
    objects/<hex>.json            every signed envelope that the log names, by its SHA-256
    certificates/<hex>.pem        a party's certificate and its intermediates, by the SHA-256
    trust/<hex>.json              a signed trust list, by its SHA-256
    ledgers/<hospital>.jsonl      a hospital's privacy ledger, one envelope a line
    receipts/<hospital>-<n>.bin   a hospital's receipt for its contribution to round n
    report/report.json            what the federation reports; report/report.html for people
    index.json                    every other file's digest, signed by an auditor of the charter

Nothing else may be in a bundle, so that nothing in it is vouched for by nobody.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from fedhelp_secure.canonical import canonical_json, parse_json
from fedhelp_secure.errors import PeerError
from fedhelp_secure.evidence.checkpoint import decode, encode
from fedhelp_secure.transport.identity import Identity, Role

CHARTER = "charter.json"
GOVERNANCE_KEY = "governance.pub"
ENTRIES = "log/entries.jsonl"
CHECKPOINT = "log/checkpoint.txt"
REPORT_JSON = "report/report.json"
REPORT_HTML = "report/report.html"
INDEX = "index.json"
INDEX_KIND = "bundle-index"

MAXIMUM_FILE_BYTES = 256 << 20

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_OBJECT = re.compile(r"objects/([0-9a-f]{64})\.json\Z")
_LEDGER = re.compile(rf"ledgers/({_LABEL})\.jsonl\Z")
_RECEIPT = re.compile(rf"receipts/({_LABEL})-([1-9][0-9]{{0,8}})\.bin\Z")
_COSIGNED = re.compile(rf"log/cosigned/(hospital|auditor)-({_LABEL})\.txt\Z")
_CERTIFICATE = re.compile(r"certificates/([0-9a-f]{64})\.pem\Z")
_TRUST_LIST = re.compile(r"trust/([0-9a-f]{64})\.json\Z")
_FIXED = frozenset({CHARTER, GOVERNANCE_KEY, ENTRIES, CHECKPOINT, REPORT_JSON, REPORT_HTML, INDEX})

BundleFiles = Mapping[str, bytes]
"""The bytes of every file of a bundle by its path, with ``/``, relative to the bundle."""


class BundleRefused(PeerError):
    """A bundle does not prove what it should."""

    code = "bundle"


def object_path(digest: str) -> str:
    """Where the envelope with ``digest`` ("sha256:" and 64 hexadecimal digits) is."""
    return f"objects/{digest.removeprefix('sha256:')}.json"


def ledger_path(hospital: str) -> str:
    """Where the ledger of ``hospital`` is."""
    return f"ledgers/{hospital}.jsonl"


def receipt_path(hospital: str, round_number: int) -> str:
    """Where the receipt of ``hospital`` for one round is."""
    return f"receipts/{hospital}-{round_number}.bin"


def objects(files: BundleFiles) -> dict[str, bytes]:
    """The signed envelopes by the digest that their file names give."""
    found = ((_OBJECT.match(path), data) for path, data in files.items())
    return {f"sha256:{match[1]}": data for match, data in found if match}


def ledgers(files: BundleFiles) -> dict[str, bytes]:
    """The ledgers by hospital."""
    found = ((_LEDGER.match(path), data) for path, data in files.items())
    return {match[1]: data for match, data in found if match}


def receipts(files: BundleFiles) -> dict[tuple[str, int], bytes]:
    """The serialised receipts by hospital and round."""
    found = ((_RECEIPT.match(path), data) for path, data in files.items())
    return {(match[1], int(match[2])): data for match, data in found if match}


def certificate_path(digest: str) -> str:
    """Where the chain with ``digest`` is."""
    return f"certificates/{digest.removeprefix('sha256:')}.pem"


def trust_list_path(digest: str) -> str:
    """Where the trust list with ``digest`` is."""
    return f"trust/{digest.removeprefix('sha256:')}.json"


def certificates(files: BundleFiles) -> dict[str, bytes]:
    """The chains (PEM) by the digest that their file names give, in order."""
    found = ((_CERTIFICATE.match(path), files[path]) for path in sorted(files))
    return {f"sha256:{match[1]}": data for match, data in found if match}


def trust_lists(files: BundleFiles) -> dict[str, bytes]:
    """The trust lists' envelopes by the digest that their file names give, in order."""
    found = ((_TRUST_LIST.match(path), files[path]) for path in sorted(files))
    return {f"sha256:{match[1]}": data for match, data in found if match}


def cosigned_path(witness: Identity) -> str:
    """Where the newest checkpoint is that ``witness`` has cosigned."""
    return f"log/cosigned/{witness.role.value}-{witness.name}.txt"


def cosigned(files: BundleFiles) -> dict[tuple[Role, str], bytes]:
    """The cosigned checkpoints by the role and name of the witness."""
    found = ((_COSIGNED.match(path), files[path]) for path in sorted(files))
    return {(Role(match[1]), match[2]): data for match, data in found if match}


def required(files: BundleFiles, path: str) -> bytes:
    """The file at ``path``; raises BundleRefused if the bundle has none."""
    try:
        return files[path]
    except KeyError as error:
        raise BundleRefused(f"the bundle has no {path}; ask for a whole one.") from error


def entry_line(index: int, entry: bytes) -> bytes:
    """One line of ``log/entries.jsonl``."""
    return canonical_json({"index": index, "entry": encode(entry)}) + b"\n"


def leaves(files: BundleFiles) -> tuple[bytes, ...]:
    """The log's entries as bytes; raises BundleRefused unless every line is as `entry_line` writes
    it, in order."""
    lines = required(files, ENTRIES).split(b"\n")
    if lines.pop() != b"":
        raise BundleRefused(f"{ENTRIES} does not end with a newline.")
    return tuple(_leaf(index, line) for index, line in enumerate(lines))


def _leaf(index: int, line: bytes) -> bytes:
    text = parse_json(line, f"line {index + 1} of {ENTRIES}").get("entry")
    if not isinstance(text, str):
        raise BundleRefused(f"line {index + 1} of {ENTRIES} has no entry.")
    leaf = decode(text)
    if line + b"\n" != entry_line(index, leaf):
        raise BundleRefused(f"line {index + 1} of {ENTRIES} is not entry {index}.")
    return leaf


def matching_files(source: Path, folder: str) -> dict[str, bytes]:
    """The files in the directory ``source`` that have a place in the bundle's ``folder``.

    Others are left alone. Raises BundleRefused if ``source`` is no directory.
    """
    if not source.is_dir():
        raise BundleRefused(f"{source} is not a directory; give the one with the {folder}.")
    places = ((path, f"{folder}/{path.name}") for path in sorted(source.iterdir()))
    return {place: _read_plain(path, place) for path, place in places if _has_a_place(place)}


def read_files(directory: Path) -> BundleFiles:
    """Every file of the bundle in ``directory``, each read once.

    Raises BundleRefused for anything that has no place in the layout: other names, symbolic links,
    devices, files over 256 MiB.
    """
    if not directory.is_dir():
        raise BundleRefused(f"{directory} is not a directory; give the bundle's.")
    files: dict[str, bytes] = {}
    for folder, folders, names in os.walk(directory, followlinks=False):
        # A link to a directory is not walked into, and must not be passed over either.
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in (*names, *links):
            path = Path(folder) / name
            relative = path.relative_to(directory).as_posix()
            # `ascii`: a hostile name must not write to the auditor's terminal.
            if not _has_a_place(relative):
                raise BundleRefused(f"{relative!a} has no place in a bundle; remove it.")
            files[relative] = _read_plain(path, relative)
    return MappingProxyType(files)


def _has_a_place(path: str) -> bool:
    patterns = (_OBJECT, _LEDGER, _RECEIPT, _COSIGNED, _CERTIFICATE, _TRUST_LIST)
    return path in _FIXED or any(pattern.match(path) for pattern in patterns)


def _read_plain(path: Path, relative: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise BundleRefused(f"{relative} cannot be read as a plain file.") from error
    with open(descriptor, "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAXIMUM_FILE_BYTES:
            raise BundleRefused(f"{relative} is not a plain file of at most 256 MiB.")
        return file.read()
