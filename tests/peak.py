"""Peak memory of this process, for what tests run in a process of its own."""

from pathlib import Path


def peak() -> int:
    """Bytes in memory at most so far.

    Linux starts `ru_maxrss` of a new program with what the process took that started it, here all that the tests had
    loaded; VmHWM starts anew.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))
