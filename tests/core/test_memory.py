"""Memory is asked for before it is taken, and what there is of it is what the system says."""

import resource
import sys

import numpy as np
import pytest

from quantlab import LimitError, QuantConfig, evaluate, fake_quantize, quantize, sweep
from quantlab.core import memory
from quantlab.errors import ConfigError

GB = 10**9


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes a machine whose files have these texts, by their names. Unasked it has 1000 GB free."""
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "self")
    monkeypatch.setattr(memory, "MACHINE", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CONTROL_GROUPS", tmp_path / "groups")
    monkeypatch.delenv(memory.VARIABLE, raising=False)

    def made(files: dict[str, object]) -> None:
        for name, said in ({"meminfo": meminfo(1000 * GB)} | files).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"{said}\n")

    return made


def meminfo(available: int, swap: int = 0) -> str:
    return f"MemTotal: 99 kB\nMemAvailable: {available // 1024} kB\nSwapFree: {swap // 1024} kB\nHugePages_Total: 0"


def group(place: str, most: object, used: int, files: int = 0) -> dict[str, object]:
    """A control group of version 2."""
    stat = f"anon {used - files}\ninactive_file {files}\nactive_file 0"
    return {
        f"groups/{place}memory.max": most,
        f"groups/{place}memory.current": used,
        f"groups/{place}memory.stat": stat,
    }


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"meminfo": meminfo(8 * GB, 2 * GB)}, 10 * GB),
        ({"self/cgroup": "0::/"} | group("", 4 * GB, GB), 3 * GB),
        ({"self/cgroup": "0::/"} | group("", 4 * GB, 3 * GB, 2 * GB), 3 * GB),  # what was read of files is given up
        ({"self/cgroup": "0::/a/b"} | group("a/b/", "max", GB) | group("a/", 6 * GB, GB), 5 * GB),
        ({"self/cgroup": "0::/a/b"} | group("a/b/", 9 * GB, GB) | group("a/", 6 * GB, GB), 5 * GB),
        ({"self/cgroup": "0::/not/here"} | group("", 4 * GB, GB), 3 * GB),  # a name of the world outside
        ({"self/cgroup": "garbage"}, 1000 * GB),
        (
            {
                "self/cgroup": "7:cpu:/x\n4:hugetlb,memory:/x\n0::/",
                "groups/memory/x/memory.limit_in_bytes": 5 * GB,
                "groups/memory/x/memory.usage_in_bytes": 3 * GB,
                "groups/memory/x/memory.stat": f"inactive_file 7\ntotal_inactive_file {GB}",
            },
            3 * GB,
        ),
    ],
)
def test_what_is_left_is_the_least_of_what_anybody_leaves(machine, files, free):
    machine(files)
    assert memory.least_room().free == pytest.approx(free, abs=2048)


def test_the_setting_is_of_the_whole_process(machine, monkeypatch):
    machine({"self/statm": f"99 {GB // resource.getpagesize()} 9"})
    monkeypatch.setenv(memory.VARIABLE, "3GB")
    assert memory.least_room().free == pytest.approx(2 * GB, abs=8192)
    monkeypatch.setenv(memory.VARIABLE, " ")
    assert memory.least_room().free > 900 * GB


@pytest.mark.parametrize("said", ["much", "4 potatoes", "-1", "1e9", "4GBB", "GB"])
def test_a_setting_that_is_no_size_is_refused(said, monkeypatch):
    monkeypatch.setenv(memory.VARIABLE, said)
    with pytest.raises(ConfigError, match="give a number of bytes, such as"):
        memory.least_room()


@pytest.mark.parametrize(
    ("said", "nbytes"), [("512", 512), ("4 kB", 4000), ("4KiB", 4096), ("1.5m", 1_500_000), ("2TiB", 2 << 40)]
)
def test_sizes_as_people_write_them(said, nbytes):
    assert memory.parsed(said) == nbytes


def test_where_nobody_tells_the_machine_has_what_it_has(machine, tmp_path):
    machine({})
    (tmp_path / "meminfo").unlink()
    assert 0 < memory.least_room().free < memory.os.sysconf("SC_PHYS_PAGES") * resource.getpagesize()
    assert memory.resident_bytes() > 10_000_000


def test_what_is_not_there_is_refused_with_what_to_do(machine):
    machine({"meminfo": meminfo(3 * GB // 2)})
    with memory.asked(GB, "it"):
        pass
    sentence = r"^it takes 1\.4 GB of memory, and this machine has 1\.5 GB left: close other programs, or choose"
    with pytest.raises(LimitError, match=sentence), memory.asked(3 * GB // 2 - memory.SMALL, "it"):
        pass
    machine({"meminfo": meminfo(0)})
    with memory.asked(memory.SMALL, "nobody asks for so little"):
        pass


def test_what_the_system_does_not_give_after_all_is_the_same_error():
    sentence = r"^it takes 4\.0 kB of memory that the system did not give"
    with pytest.raises(LimitError, match=sentence) as refusal, memory.asked(4000, "it"):
        raise MemoryError
    assert refusal.value.__cause__ is None and refusal.value.__suppress_context__
    with pytest.raises(ZeroDivisionError), memory.asked(4000, "it"):
        raise ZeroDivisionError


@pytest.mark.parametrize("work", [quantize, fake_quantize])
def test_codes_that_do_not_fit_are_refused(work, monkeypatch):
    x = np.zeros((1 << 13, 1 << 14), np.float32)  # 134 MB of codes, and half a byte each when packed
    monkeypatch.setenv(memory.VARIABLE, str(memory.resident_bytes() + 200_000_000))
    with pytest.raises(LimitError, match=r"QUANTLAB_MEMORY=\d+ has .* left: raise it"):
        work(x, QuantConfig.parse("int4-sym-tensor-minmax"))


def test_values_that_do_not_fit_are_refused(monkeypatch):
    q = quantize(np.ones((1 << 13, 1 << 12), np.float32), QuantConfig.parse("int4-sym-tensor-minmax"))
    monkeypatch.setenv(memory.VARIABLE, str(memory.resident_bytes() + 150_000_000))
    with pytest.raises(LimitError, match=r"decoding a tensor of shape \(8192, 4096\) takes 167\.8 MB"):
        q.dequantize()


def test_a_transpose_that_does_not_fit_is_a_row_that_another_time_may_be_none(monkeypatch):
    x = np.ones((600_000, 64), np.float32)  # so many rows are written out
    monkeypatch.setenv(memory.VARIABLE, str(memory.resident_bytes() + 150_000_000))
    config = QuantConfig.parse("int8-sym-ch-1-minmax")
    with pytest.raises(LimitError, match="the transpose of"):
        evaluate(x, config)
    frame = sweep(x, [config])
    assert "the transpose of" in frame.attrs["refused"][0]["reason"]
    assert "fault" not in frame.columns


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_this_machine_tells(monkeypatch):
    monkeypatch.delenv(memory.VARIABLE, raising=False)
    assert 0 < memory.least_room().free < 1 << 50
