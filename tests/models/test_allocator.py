"""Freed memory stays with the process, also where Dask would give it back."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, numpy
from meddiff_core.models.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        numpy.empty(1 << 20, numpy.uint8)[:] = 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
keep_freed_memory()
faults()
print(given_back, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="speaks of glibc")
def test_blocks_are_not_fetched_again_from_the_system() -> None:
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    given_back, kept = map(int, done.stdout.split())
    pages = 100 * (1 << 20) // os.sysconf("SC_PAGESIZE")
    assert given_back > pages / 2
    assert kept < pages / 20
