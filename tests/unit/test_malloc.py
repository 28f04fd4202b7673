"""The allocator as it is set up for Mem0."""

import subprocess
import sys

from adapters.mem0_library.malloc import MAX_ARENAS

SCRIPT = """
import ctypes, sys, threading
from adapters.mem0_library.malloc import configure_malloc

if sys.argv[1] == "limited":
    configure_malloc()
barrier = threading.Barrier(8)

def allocate():
    block = bytearray(50_000)  # from malloc: Python's own allocator serves only small objects
    barrier.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


def heaps(argument: str) -> int:
    """Return how many heaps glibc uses for eight threads."""
    command = [sys.executable, "-c", SCRIPT, argument]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.count("<heap nr=")


def test_threads_share_a_few_heaps() -> None:
    assert MAX_ARENAS < heaps("unlimited")
    assert heaps("limited") <= MAX_ARENAS
