"""How much memory a process has had (Linux's ``VmHWM``), and how to keep that low.

Not ``resource.getrusage``: a process starts with the peak of the one that started it.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path


def peak_rss_mb(process_id: int | None = None) -> float:
    """The largest resident memory of a running process and its children, in MiB; default: this."""
    main = os.getpid() if process_id is None else process_id
    children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    return sum(_own_peak(each) for each in (str(main), *children))


def _own_peak(process: str) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE_BYTES = 128 * 1024


def give_back_large_buffers() -> None:
    """Have the C library return every large buffer to the system as soon as it is freed.

    glibc keeps a heap for several threads each, and keeps freed buffers of the size of our chunks
    in all of them: a server's memory would grow with the number of threads that ever held one. Call
    it before any thread starts. (mallopt(3); another C library is left as it is.)
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in (
            (_M_ARENA_MAX, 1),
            (_M_MMAP_THRESHOLD, _LARGE_BYTES),
            (_M_TRIM_THRESHOLD, _LARGE_BYTES),
        ):
            mallopt(parameter, value)
