"""Parsing and adding foreign ciphertexts, in a child process that may die alone.

TenSEAL can crash the process on hostile bytes (DESIGN section 5), so the serving process never
hands any to it. Each job is one fresh child: ``python -m fedhelp_server.aggregator.sum_worker``
reads a job (JSON) on standard input, answers (JSON) on standard output, and holds one contribution
at a time in memory. A child that dies or is too slow costs only what it was asked about.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Digest, SecureSum
from fedhelp_secure.errors import FedHelpError, InternalError, PeerError, UnavailablePeer

if TYPE_CHECKING:
    from fedhelp_secure.secure_sum.ckks import PublicContext

CONCURRENT_WORKERS = 2

_LOG = logging.getLogger(__name__)
_REFUSED_STATUS = 3
_OUR_FAULT_STATUS = 4
_TOLD_TO_STOP = frozenset({-signal.SIGTERM, -signal.SIGINT})
"""A terminal's Ctrl-C and a supervisor's stop reach the children too."""

_BASE_SECONDS = 60.0
_BYTES_PER_SECOND = 1_000_000
_BASE_MEMORY_BYTES = 4 << 30
_MAXIMUM_REPLY_CHARACTERS = 4096


class ParseRefused(PeerError):
    """The child read a ciphertext and refused it; ``code`` is that of the refusal."""

    def __init__(self, code: str) -> None:
        super().__init__(
            "the ciphertext cannot be read under this charter's CKKS context; encrypt the release "
            "with the public context that the charter names."
        )
        self.code = code


class WorkerDied(PeerError):
    """The child that was parsing a ciphertext ended abnormally: the ciphertext is to blame."""

    code = "contribution-worker-died"


class WorkerTooSlow(PeerError):
    """The child did not end in time."""

    code = "contribution-worker-too-slow"


class WorkerMisled(InternalError):
    """The files that the child was given are not those that the aggregator checked before."""

    code = "worker-misled"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Part(_Strict):
    weight: int = Field(ge=1)
    path: Path
    digest: Digest


class _Job(_Strict):
    context: Path
    context_digest: Digest
    secure_sum: SecureSum
    parts: Annotated[tuple[_Part, ...], Field(min_length=1)]
    out: Path | None
    """Where the sum goes; None to parse and add without keeping anything."""
    seconds: int = Field(ge=1)
    """Of computing, after which the child ends itself even if its parent is gone."""


@dataclass(frozen=True, slots=True)
class WeightedBlob:
    """One ciphertext file and its weight in the sum."""

    weight: int
    path: Path
    digest: str


class SumWorker:
    """Starts the children, at most two at a time; safe for many threads."""

    def __init__(
        self,
        context: Path,
        secure_sum: SecureSum,
        *,
        context_digest: str,
        base_seconds: float = _BASE_SECONDS,
    ) -> None:
        """``context`` is the file of the serialised public CKKS context."""
        self._context = context
        self._secure_sum = secure_sum
        self._context_digest = context_digest
        self._base_seconds = base_seconds
        self._slots = threading.BoundedSemaphore(CONCURRENT_WORKERS)
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def stop(self) -> None:
        """End the children that run; what they were asked, and whatever comes, is not answered."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()

    def check(self, blob: WeightedBlob) -> None:
        """Parse one contribution and scale it, as the sum will.

        Raises ParseRefused, WorkerDied or WorkerTooSlow; WorkerMisled if our own files are at
        fault; UnavailablePeer if the child was told to stop: that says nothing of the ciphertext.
        """
        self._run((blob,), None)

    def add(self, blobs: Sequence[WeightedBlob], out: Path) -> None:
        """Write the weighted sum of ``blobs``, in their order, to the new file ``out``.

        Raises as `check` does; ``out`` is then not to be used.
        """
        self._run(blobs, out)

    def _run(self, blobs: Sequence[WeightedBlob], out: Path | None) -> None:
        size = sum(blob.path.stat().st_size for blob in blobs)
        seconds = self._base_seconds + size / _BYTES_PER_SECOND
        job = _Job(
            context=self._context,
            context_digest=self._context_digest,
            secure_sum=self._secure_sum,
            parts=tuple(
                _Part(weight=blob.weight, path=blob.path, digest=blob.digest) for blob in blobs
            ),
            out=out,
            seconds=math.ceil(seconds),
        )
        with self._slots, self._child() as process:
            status, reply = _ended(process, job, seconds)
        if status in _TOLD_TO_STOP:
            raise UnavailablePeer("the aggregator was interrupted; send the contribution again.")
        if status == _REFUSED_STATUS:
            raise ParseRefused(_code(reply))
        if status == _OUR_FAULT_STATUS:
            raise WorkerMisled(
                "the public CKKS context or a stored ciphertext has changed on disk; restore the "
                "files, then start the aggregator again."
            )
        if status != 0:
            _LOG.warning("a worker that was parsing a ciphertext ended with status %d", status)
            raise WorkerDied(
                "reading the ciphertext crashed the process that did it; encrypt the release again "
                "with an unchanged fedhelp-secure."
            )

    @contextlib.contextmanager
    def _child(self) -> Iterator[subprocess.Popen[str]]:
        with self._lock:
            if self._stopped:
                raise UnavailablePeer("the aggregator is stopping; try again when it is back.")
            process = subprocess.Popen(
                # -I: neither the environment nor the working directory choose what is imported.
                [sys.executable, "-I", "-m", "fedhelp_server.aggregator.sum_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                encoding="utf-8",
            )
            self._running.add(process)
        try:
            yield process
        finally:
            with self._lock:
                self._running.discard(process)


def _ended(process: subprocess.Popen[str], job: _Job, seconds: float) -> tuple[int, str]:
    """Exit status and standard output of ``process``, which gets ``job`` and has ended after."""
    try:
        reply, _ = process.communicate(job.model_dump_json(), timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise WorkerTooSlow(
            "reading the ciphertext took too long; encrypt the release again with an unchanged "
            "fedhelp-secure."
        ) from error
    except BrokenPipeError:
        reply = ""
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
    return process.returncode, reply


def _code(reply: str) -> str:
    """The refusal's code; what a child that met hostile bytes says is not taken on trust."""
    try:
        code = str(json.loads(reply[:_MAXIMUM_REPLY_CHARACTERS])["code"])
    except (ValueError, KeyError, TypeError):
        return ParseRefused.code
    well_formed = code.replace("-", "").isalnum() and code.isascii() and len(code) <= 64
    return code if well_formed else ParseRefused.code


# What follows runs in the child alone.


def _limit_resources(job: _Job) -> None:
    size = max(part.path.stat().st_size for part in job.parts)
    memory = _BASE_MEMORY_BYTES + 16 * size
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (job.seconds, job.seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _context(job: _Job) -> PublicContext:
    # Here, not above: the serving process imports this module, and shall not load TenSEAL.
    from fedhelp_secure.secure_sum.ckks import PublicContext

    public = job.context.read_bytes()
    if digest(public) != job.context_digest:
        raise WorkerMisled("the public CKKS context has changed on disk.")
    return PublicContext(public, job.secure_sum)


def _weighted_sum(job: _Job) -> bytes:
    context = _context(job)
    total = b""
    for part in job.parts:
        ciphertext = part.path.read_bytes()
        if digest(ciphertext) != part.digest:
            raise WorkerMisled("a stored ciphertext has changed on disk.")
        terms = [(part.weight, ciphertext)]
        total = context.weighted_sum([(1, total), *terms] if total else terms)
    return total


def main() -> int:
    """Do the one job on standard input; returns the exit status."""
    try:
        job = _Job.model_validate_json(sys.stdin.read())
        _limit_resources(job)
        total = _weighted_sum(job)
        if job.out is not None:
            job.out.write_bytes(total)
    except (ValidationError, InternalError):
        return _OUR_FAULT_STATUS
    except FedHelpError as error:
        sys.stdout.write(json.dumps({"code": error.code}))
        return _REFUSED_STATUS
    return 0


if __name__ == "__main__":
    sys.exit(main())
