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
_LARGEST_MAPPED_BYTES = 32 << 20
_KEPT_BYTES = 8 << 20


def share_one_heap() -> None:
    """Have all threads of this process use one heap, and give back what is free at its end.

    glibc keeps a heap for every few threads, each with the freed buffers of our chunks in it: a
    server's memory would grow with the number of threads that ever held one. Call it before any
    thread starts. (mallopt(3); another C library is left as it is.)
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in (
            (_M_ARENA_MAX, 1),
            # The largest there is: mapping every chunk anew would cost a page fault every 4 KiB.
            (_M_MMAP_THRESHOLD, _LARGEST_MAPPED_BYTES),
            (_M_TRIM_THRESHOLD, _KEPT_BYTES),
        ):
            mallopt(parameter, value)
