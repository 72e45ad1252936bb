"""How the memory of a server with many threads is kept low."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAPS = """
import ctypes, sys, threading
from fedhelp_secure.memory import share_one_heap

if sys.argv[1] == "one":
    share_one_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
together = threading.Barrier(8)

def allocate():
    together.wait()
    assert libc.malloc(1000)
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
file = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
assert libc.malloc_info(0, file) == 0
libc.fclose(file)
"""
"""malloc_info(3) lists every heap of a process."""


@pytest.mark.parametrize(("argument", "shared"), [("one", True), ("several", False)])
def test_threads_share_one_heap_where_they_would_not(
    tmp_path: Path, argument: str, shared: bool
) -> None:
    listed = tmp_path / "heaps.xml"
    subprocess.run([sys.executable, "-c", HEAPS, argument, str(listed)], check=True, timeout=60)
    assert (listed.read_text().count("<heap nr=") == 1) == shared
