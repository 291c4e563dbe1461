"""The examples run as they stand."""

import runpy
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_quickstart_ends_with_a_packed_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "quickstart.py"))
    assert (tmp_path / "quickstart.npz").stat().st_size > 0
    assert "dB at" in capsys.readouterr().out
