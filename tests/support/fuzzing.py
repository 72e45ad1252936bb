"""Hostile input for the secure sum: valid messages of a real round, mutated, and what takes them.

`benchmarks/fuzz_secure_sum.py` runs it at length, ``tests/core/secure_sum/test_fuzz.py`` briefly.
Every target either raises an error of ours (or protobuf's DecodeError), or takes the bytes for
something that is no other than what was honestly sent: anything else is a `Finding`.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError, Message
from support.federation import Federation
from support.sums import answers_of, contribute, decryptor_answer, summed

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import SecureSum, open_charter
from fedhelp_secure.errors import FedHelpError, MalformedMessage
from fedhelp_secure.secure_sum.answer_wire import answer_of, header_of
from fedhelp_secure.secure_sum.answers import (
    Answer,
    open_decryptor_statement,
    open_unmasker_statement,
)
from fedhelp_secure.secure_sum.ckks import SecretContext
from fedhelp_secure.secure_sum.contribution import (
    check_sealed_seed,
    check_sealed_seeds,
    mask_purpose,
    open_manifest,
)
from fedhelp_secure.secure_sum.opening import Answers, open_sum
from fedhelp_secure.secure_sum.residues import MODULUS, check_chunk, weighted_sum
from fedhelp_secure.signing import peek_document
from fedhelp_secure.wire.v1 import coordinator_pb2, custodian_pb2

UNMASKER = "unmasker"
HOSPITAL = "small-1"
MANIFEST, DECRYPTOR, UNMASKING = "manifest", "decryptor-statement", "unmasker-statement"

_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x22, 0x5C, 0x7B, 0x5B)
_HOSTILE_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 1.0, 0.5, 1e308, 2**31, 2**32, 2**53 - 1, -(2**53) + 1),
    *("", "a", "A" * 70, "large-1", "small-9", "../x", "\x00", "\x1b[2J", "\u202e", "\ud800", "1"),
    *("sha256:" + "0" * 64, "sha256:" + "g" * 64, [], {}, [[]], [None] * 50, {"a": {"a": []}}),
)


class Finding(Exception):
    """Bytes did what no bytes may do."""


@dataclass(frozen=True, slots=True)
class Target:
    """One way in: valid inputs, and what a party does with whatever comes instead."""

    name: str
    seeds: tuple[bytes, ...]
    take: Callable[[bytes], None]
    mutate: Callable[[random.Random, bytes], bytes]
    share: int
    """How often it is chosen, relative to the others."""


class Round:
    """One honest round of a federation, and every target over its messages."""

    def __init__(self, federation: Federation, directory: Path, corpus: Path) -> None:
        """``corpus`` is a directory of files, one input each: text as it is, ``.b64`` decoded."""
        self._federation, self._charter = federation, federation.charter
        names = [hospital.name for hospital in self._charter.hospitals]
        values = np.arange(self._charter.secure_sum.values, dtype=np.int64) - 3
        self._parts = {
            name: contribute(federation, name, directory / name, release=values) for name in names
        }
        self._scratch = directory / "mutated"
        self._answers_directory = directory / "answers"
        self._answers = answers_of(federation, self._parts, self._answers_directory)
        total = sum(self._charter.weight_of(name) for name in names)
        self._honest = (values * total).tolist()
        self._corpus = tuple(_corpus_file(path) for path in sorted(corpus.iterdir()))
        self._key = federation.state(HOSPITAL).unsealing_key()
        self._opened(self._answers)

    def targets(self) -> list[Target]:
        """All of them."""
        part = self._parts[HOSPITAL]
        frame = part.ciphertext.read_bytes()
        others = tuple(other.ciphertext.read_bytes() for other in self._parts.values())
        header = coordinator_pb2.ContributionHeader(
            charter_digest=self._charter.digest,
            round=1,
            manifest=part.manifest,
            sealed_seeds=part.sealed_seeds,
        )
        upload = coordinator_pb2.ContributeRequest(header=header).SerializeToString()
        decrypting = custodian_pb2.DecryptSumHeader(
            charter=self._federation.charter_envelope, round=1, sum_digest=digest(frame)
        )
        request = custodian_pb2.DecryptSumRequest(header=decrypting).SerializeToString()
        answers = [self._answers.decryptor, *self._answers.unmaskers]
        headers = tuple(header_of(answer).SerializeToString() for answer in answers)
        parts = tuple(
            custodian_pb2.AnswerPart(header=header_of(answer)).SerializeToString()
            for answer in answers
        )
        manifest = (part.manifest, *self._corpus)
        statements = [answer.statement for answer in answers]
        documents = [
            _document(DECRYPTOR, statements[0]),
            *(_document(UNMASKING, statement) for statement in statements[1:]),
        ]
        return [
            Target("residue chunk", (frame,), self._chunk, mutate_residues, 6),
            Target("altered sum", (frame, *others), self._altered_sum, mutate_sum, 2),
            Target("manifest", manifest, self._manifest, mutate_bytes, 12),
            Target(
                "signed manifest",
                (_document(MANIFEST, part.manifest),),
                self._signed_manifest,
                mutate_json,
                10,
            ),
            Target("sealed seed", (part.sealed_seeds[0],), self._sealed_seed, mutate_bytes, 8),
            Target(
                "ContributeRequest",
                (upload, *self._corpus),
                self._upload,
                _mutator_of(coordinator_pb2.ContributeRequest),
                12,
            ),
            Target(
                "DecryptSumRequest",
                (request, *self._corpus),
                self._decrypt,
                _mutator_of(custodian_pb2.DecryptSumRequest),
                8,
            ),
            Target(
                "AnswerPart",
                (*parts, *self._corpus),
                self._answer_part,
                _mutator_of(custodian_pb2.AnswerPart),
                12,
            ),
            Target(
                "answer header",
                headers,
                self._answer_header,
                _mutator_of(coordinator_pb2.AnswerHeader),
                10,
            ),
            Target(
                "decryptor statement",
                (statements[0], *self._corpus),
                self._decryptor_statement,
                mutate_bytes,
                6,
            ),
            Target(
                "unmasker statement",
                (*statements[1:], *self._corpus),
                self._unmasker_statement,
                mutate_bytes,
                6,
            ),
            Target("signed statement", tuple(documents), self._signed_statement, mutate_json, 8),
            Target("answer body", (answers[0].body.read_bytes(),), self._body, mutate_bytes, 6),
        ]

    def _opened(self, answers: Answers) -> None:
        """Open the sum; raises Finding if it is another than the honest one."""
        opened = open_sum(
            self._charter, 1, recipient=HOSPITAL, unsealing_key=self._key, answers=answers
        )
        if opened.values.tolist() != self._honest or opened.hospitals != tuple(self._parts):
            raise Finding("a sum was opened that is not the honest one")

    def _chunk(self, data: bytes) -> None:
        check_chunk(data, self._charter.secure_sum)
        (total,) = weighted_sum([(64, iter([data])), (1, iter([data]))], self._charter.secure_sum)
        # Another ciphertext than the manifest's: what stops it is the digest.
        check_chunk(total, self._charter.secure_sum)
        if data != self._parts[HOSPITAL].ciphertext.read_bytes():
            manifest = open_manifest(self._charter, self._parts[HOSPITAL].manifest)
            if digest(data) == manifest.ciphertext_digest:
                raise Finding("an altered ciphertext has its manifest's digest")

    def _altered_sum(self, data: bytes) -> None:
        """An aggregator that puts ``data`` in the place of a contribution."""
        altered = dict(self._parts)
        self._scratch.write_bytes(data)
        altered[HOSPITAL] = dataclasses.replace(altered[HOSPITAL], ciphertext=self._scratch)
        out = self._answers_directory / "altered"
        out.unlink(missing_ok=True)
        total = summed(self._charter, altered)
        answer = decryptor_answer(self._federation, self._charter, total, out)
        self._opened(dataclasses.replace(self._answers, decryptor=answer))

    def _manifest(self, data: bytes) -> None:
        open_manifest(self._charter, data)
        if data != self._parts[HOSPITAL].manifest:
            raise Finding("an altered manifest was accepted")

    def _signed_manifest(self, data: bytes) -> None:
        """A hospital that signs what it likes."""
        key = self._federation.state(HOSPITAL).signing_key()
        manifest = open_manifest(self._charter, key.sign_document(MANIFEST, json.loads(data)))
        check_sealed_seeds(manifest, self._parts[HOSPITAL].sealed_seeds)
        fixed = (manifest.charter, manifest.hospital, manifest.ciphertext_bytes)
        secure_sum = self._charter.secure_sum
        if fixed != (self._charter.digest, HOSPITAL, secure_sum.ciphertext_bytes):
            raise Finding("a manifest was accepted that is not this hospital's or charter's")

    def _sealed_seed(self, data: bytes) -> None:
        manifest = open_manifest(self._charter, self._parts[HOSPITAL].manifest)
        purpose = mask_purpose(self._charter, 1, hospital=HOSPITAL, unmasker=UNMASKER)
        key = self._federation.state(UNMASKER).unsealing_key()
        try:
            check_sealed_seed(manifest, 0, data)
        except FedHelpError:
            # Nor does it open for the unmasker.
            key.open(
                data, purpose.seed_info(manifest.ciphertext_digest, manifest.round_keys_digest)
            )
            raise Finding("an altered seed opened") from None
        if data != self._parts[HOSPITAL].sealed_seeds[0]:
            raise Finding("an altered seed was accepted")

    def _upload(self, data: bytes) -> None:
        request = coordinator_pb2.ContributeRequest.FromString(data)
        if request.WhichOneof("part") != "header":
            check_chunk(request.ciphertext_chunk, self._charter.secure_sum)
            return
        manifest = open_manifest(self._charter, request.header.manifest)
        check_sealed_seeds(manifest, tuple(request.header.sealed_seeds))
        part = self._parts[HOSPITAL]
        sent = (request.header.manifest, tuple(request.header.sealed_seeds))
        if sent != (part.manifest, part.sealed_seeds):
            raise Finding("an altered upload was accepted")

    def _decrypt(self, data: bytes) -> None:
        request = custodian_pb2.DecryptSumRequest.FromString(data)
        if request.WhichOneof("part") != "header":
            check_chunk(request.ciphertext_chunk, self._charter.secure_sum)
            return
        key = self._federation.governance_key.public
        if open_charter(request.header.charter, key) != self._charter:
            raise Finding("another charter was accepted")

    def _answer_part(self, data: bytes) -> None:
        part = custodian_pb2.AnswerPart.FromString(data)
        if part.WhichOneof("part") != "header":
            raise MalformedMessage("an answer begins with its header.")
        self._take_header(part.header)

    def _answer_header(self, data: bytes) -> None:
        self._take_header(coordinator_pb2.AnswerHeader.FromString(data))

    def _take_header(self, header: coordinator_pb2.AnswerHeader) -> None:
        """In whichever place it claims to be for; the honest bodies and other answers stay."""
        first = answer_of(header, self._answers.decryptor.body)
        try:
            self._opened(dataclasses.replace(self._answers, decryptor=first))
        except FedHelpError:
            unmaskers = list(self._answers.unmaskers)
            unmaskers[0] = answer_of(header, unmaskers[0].body)
            self._opened(dataclasses.replace(self._answers, unmaskers=tuple(unmaskers)))

    def _decryptor_statement(self, data: bytes) -> None:
        answer = dataclasses.replace(self._answers.decryptor, statement=data)
        open_decryptor_statement(self._charter, 1, answer)
        if data != self._answers.decryptor.statement:
            raise Finding("an altered statement was accepted")

    def _unmasker_statement(self, data: bytes) -> None:
        answer = dataclasses.replace(self._answers.unmaskers[0], statement=data)
        open_unmasker_statement(self._charter, 1, answer, unmasker=UNMASKER)
        if data != self._answers.unmaskers[0].statement:
            raise Finding("an altered statement was accepted")

    def _signed_statement(self, data: bytes) -> None:
        """A custodian that signs what it likes: recipients open the honest sum or none."""
        document = json.loads(data)
        if "sum_digest" in document:
            self._opened(
                dataclasses.replace(
                    self._answers,
                    decryptor=self._resigned(
                        self._answers.decryptor, "decryptor", DECRYPTOR, document
                    ),
                )
            )
            return
        unmaskers = list(self._answers.unmaskers)
        unmaskers[0] = self._resigned(unmaskers[0], UNMASKER, UNMASKING, document)
        self._opened(dataclasses.replace(self._answers, unmaskers=tuple(unmaskers)))

    def _resigned(self, answer: Answer, signer: str, kind: str, document: dict[str, Any]) -> Answer:
        key = self._federation.state(signer).signing_key()
        return dataclasses.replace(answer, statement=key.sign_document(kind, document))

    def _body(self, data: bytes) -> None:
        """A custodian that signs an altered body, sealed keys and all."""
        self._scratch.write_bytes(data)
        answer = dataclasses.replace(self._answers.decryptor, body=self._scratch)
        document = peek_document(DECRYPTOR, answer.statement) | {"body_digest": digest(data)}
        answer = self._resigned(answer, "decryptor", DECRYPTOR, document)
        self._opened(dataclasses.replace(self._answers, decryptor=answer))
        if data != self._answers.decryptor.body.read_bytes():
            raise Finding("an altered body was opened")


def fuzz(targets: Sequence[Target], mutations: int, seed: int) -> Counter[tuple[str, str]]:
    """How often each target answered what: "accepted", "DecodeError", or an error's code.

    Raises Finding, naming target and mutation, for anything else.
    """
    generator = random.Random(seed)
    results: Counter[tuple[str, str]] = Counter()
    weights = [target.share for target in targets]
    for number in range(mutations):
        (target,) = generator.choices(targets, weights)
        # Half of the time the first, which is an honest message where others are the corpus.
        seed_data = generator.choice((target.seeds[0], generator.choice(target.seeds)))
        data = target.mutate(generator, seed_data)
        try:
            target.take(data)
            results[target.name, "accepted"] += 1
        except DecodeError:
            results[target.name, "DecodeError"] += 1
        except FedHelpError as error:
            results[target.name, error.code] += 1
        except Exception as error:
            raise Finding(
                f"{target.name}, mutation {number} of seed {seed}: {type(error).__name__}: {error};"
                f" {len(data)} bytes, {base64.b64encode(data[:3000]).decode()}"
            ) from error
    return results


def mutate_bytes(generator: random.Random, data: bytes) -> bytes:
    """One to four changes of bits, bytes, lengths and order."""
    changed = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(changed) + 1)
        end = min(len(changed), at + generator.choice((1, 1, 2, 4, 16, 300)))
        match generator.randrange(8):
            case 0 | 1 if at < len(changed):
                changed[at] ^= 1 << generator.randrange(8)
            case 2 if at < len(changed):
                changed[at] = generator.choice(_INTERESTING)
            case 3:
                del changed[at:end]
            case 4:
                changed[at:at] = generator.randbytes(end - at or 1)
            case 5:
                changed[at:at] = changed[at:end]
            case 6:
                del changed[at:]
            case _:
                changed[at:end] = generator.randbytes(end - at)
    return bytes(changed)


def mutate_residues(generator: random.Random, data: bytes) -> bytes:
    """Changes of whole words, mostly to other residues; now and then of lengths."""
    if generator.random() < 0.1:
        return mutate_bytes(generator, data)
    if generator.random() < 0.1:
        words = np.random.default_rng(generator.getrandbits(32))
        return words.integers(0, MODULUS, len(data) // 8, dtype=np.uint64).tobytes()
    changed = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 100))):
        at = 8 * generator.randrange(len(changed) // 8)
        word = int.from_bytes(changed[at : at + 8], "little")
        word = generator.choice(
            (0, 1, MODULUS - 1, (word + 1) % MODULUS, word ^ 1, generator.randrange(MODULUS))
            + ((MODULUS, 2**63, 2**64 - 1) if generator.random() < 0.1 else ())
        )
        changed[at : at + 8] = word.to_bytes(8, "little")
    return bytes(changed)


def mutate_sum(generator: random.Random, data: bytes) -> bytes:
    """A ciphertext (of whichever hospital) as it is, many times over, or mutated."""
    if generator.random() < 0.5:
        return mutate_residues(generator, data)
    words = np.frombuffer(data, dtype="<u8").astype(object) * generator.choice((0, 1, 2, 3, -1))
    return (words % MODULUS).astype("<u8").tobytes()


def _mutator_of(kind: type[Message]) -> Callable[[random.Random, bytes], bytes]:
    def mutate(generator: random.Random, data: bytes) -> bytes:
        """Some fields of the message, the encoding intact; or the bytes themselves."""
        message = kind()
        try:
            message.ParseFromString(data)
        except DecodeError:
            return mutate_bytes(generator, data)
        if generator.random() < 0.3:
            return mutate_bytes(generator, data)
        for _ in range(generator.randint(1, 2)):
            _mutate_field(generator, message)
        return message.SerializeToString()

    return mutate


def _mutate_field(generator: random.Random, message: Message) -> None:
    fields = message.ListFields()
    if not fields:
        return
    field, value = generator.choice(fields)
    if field.is_repeated:
        if generator.random() < 0.2:
            value.append(value[0])
        elif generator.random() < 0.2:
            del value[generator.randrange(len(value))]
        elif field.message_type is not None:
            _mutate_field(generator, generator.choice(value))
        else:
            value[generator.randrange(len(value))] = mutate_bytes(generator, value[0])
    elif field.message_type is not None:
        _mutate_field(generator, value)
    elif isinstance(value, bytes):
        setattr(message, field.name, mutate_bytes(generator, value))
    elif isinstance(value, str):
        setattr(message, field.name, generator.choice(("", "x", "small-1", "large-1", "\u202e")))
    else:
        setattr(message, field.name, generator.choice((0, 2, 3, 2**31, 2**32 - 1)))


def mutate_json(generator: random.Random, data: bytes) -> bytes:
    """One to three entries of a document replaced, removed, added, moved or repeated."""
    document = json.loads(data)
    for _ in range(generator.randint(1, 3)):
        places = list(_places(document))
        holder, key = generator.choice(places)
        if isinstance(holder, list) and not 0 <= key < len(holder):
            continue
        match generator.randrange(5):
            case 0 | 1:
                holder[key] = copy.deepcopy(generator.choice(_HOSTILE_VALUES))
            case 2:
                del holder[key]
            case 3 if isinstance(holder, list):
                generator.shuffle(holder)
            case 3:
                other = generator.choice(("more", "", "\u202e", "\ud800", "__class__"))
                holder[other] = copy.deepcopy(holder[key])
            case _ if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
            case _:
                other = generator.choice(sorted(holder))
                holder[key], holder[other] = holder[other], holder[key]
        if not document:
            break
    return json.dumps(document).encode()


def _places(value: dict[str, Any] | list[Any]) -> list[tuple[Any, Any]]:
    items: list[tuple[Any, Any]] = list(
        value.items() if isinstance(value, dict) else enumerate(value)
    )
    found = [(value, key) for key, _ in items]
    for _, inner in items:
        if isinstance(inner, dict | list):
            found += _places(inner)
    return found


def _document(kind: str, envelope: bytes) -> bytes:
    return json.dumps(peek_document(kind, envelope)).encode()


def _corpus_file(path: Path) -> bytes:
    data = path.read_bytes()
    return base64.b64decode(data) if path.suffix == ".b64" else data


def decrypt_random_frames(
    secret: bytes, secure_sum_json: str, frames: int, seed: int
) -> Counter[str]:
    """Frames of random residues under a real key: each must be refused as no integers.

    For a child process: SEAL parses them. Raises Finding if one decrypts.
    """
    context = SecretContext(secret, SecureSum.model_validate_json(secure_sum_json))
    generator, results = np.random.default_rng(seed), Counter[str]()
    for _ in range(frames):
        words = generator.integers(0, MODULUS, 8192, dtype=np.uint64)
        if generator.random() < 0.5:
            # Sparse ones too: mostly zeros, or mostly the largest residue.
            words[generator.random(8192) < 0.99] = generator.choice([0, MODULUS - 1])
        try:
            context.decrypt_frame(words.tobytes())
            results["accepted"] += 1
        except FedHelpError as error:
            results[error.code] += 1
    return results
