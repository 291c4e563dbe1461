"""What a process gives up before it looks at a stranger's bytes: memory, time, files, and all but a few system calls.

A limit that a system does not have is left out: macOS ignores the one of memory, and only Linux on x86-64 and 64-bit
ARM has the filter of system calls. That a crash stays in this process holds everywhere.
"""

import ctypes
import os
import platform
import struct
import sys
import time
from contextlib import suppress

MEMORY = 256 << 20  # bytes of address space, beyond what Python and libhdf5 take to start
SECONDS = 3  # of computing; 15,000 objects take 1.5, with the start

# read, write, close, fstat, lseek, munmap, brk, rt_sigaction, rt_sigprocmask, rt_sigreturn, mremap, sched_yield,
# madvise, exit, gettimeofday, futex, clock_gettime, exit_group, getrandom: no file is opened, nothing connected or run.
_CALLS = {
    "x86_64": (0xC000003E, (0, 1, 3, 5, 8, 11, 12, 13, 14, 15, 25, 24, 28, 60, 96, 202, 228, 231, 318), (9, 10)),
    "aarch64": (
        0xC00000B7,
        (63, 64, 57, 80, 62, 215, 214, 134, 135, 139, 216, 124, 233, 93, 169, 98, 113, 94, 278),
        (222, 226),
    ),
}  # (architecture, calls, mmap and mprotect: of memory that cannot be executed)
_EXECUTABLE = 4  # PROT_EXEC
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # instructions of the filter
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050001, 0x80000000  # _REFUSE: the call fails with EPERM
_NUMBER, _ARCHITECTURE, _THIRD_ARGUMENT = 0, 4, 32  # places in what the filter looks at
_SET_SECCOMP, _BY_FILTER, _NO_NEW_PRIVILEGES = 22, 2, 38


def seal() -> None:
    """Give up what reading does not need. Everything must have been imported."""
    _limit_resources()
    if sys.platform == "linux" and platform.machine() in _CALLS:
        _filter_calls(*_CALLS[platform.machine()])


def _limit_resources() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    limits = {
        "RLIMIT_AS": _address_space() + MEMORY,
        "RLIMIT_CPU": int(time.process_time()) + SECONDS,
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_NPROC": 0,
        "RLIMIT_NOFILE": 0,  # what is open stays open
    }
    for name, value in limits.items():
        # ValueError, OSError: the system knows the limit and does not take the value, as macOS for memory.
        with suppress(AttributeError, ValueError, OSError):
            kind = getattr(resource, name)
            hard = resource.getrlimit(kind)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            # At the first limit of computing comes a signal that says so, at the second the one for everything.
            last = value + 1 if name == "RLIMIT_CPU" and value != hard else value
            resource.setrlimit(kind, (value, last))


def _address_space() -> int:
    """Bytes of address space that the process has by now; 1 GiB where that is not told."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 1 << 30


def _filter_calls(architecture: int, calls: tuple[int, ...], of_memory: tuple[int, ...]) -> None:
    """Have the kernel refuse all other system calls, for ever; where it cannot, the limits remain."""
    kill, refuse = (_RETURN, 0, 0, _KILL), (_RETURN, 0, 0, _REFUSE)
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, architecture), kill, (_LOAD, 0, 0, _NUMBER),
    ]  # fmt: skip
    for number in calls:
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    for number in of_memory:
        program += [(_EQUAL, 0, 4, number), (_LOAD, 0, 0, _THIRD_ARGUMENT), (_ANY_BIT, 0, 1, _EXECUTABLE), refuse]
        program += [(_RETURN, 0, 0, _ALLOW)]
    code = b"".join(struct.pack("=HBBI", *step) for step in [*program, refuse])
    held = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(held)))
    prctl = ctypes.CDLL(None).prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    prctl(_SET_SECCOMP, _BY_FILTER, ctypes.addressof(header), 0, 0)
