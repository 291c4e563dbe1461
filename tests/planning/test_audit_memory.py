"""An audit takes memory for its largest tensor, whatever the size of the two files."""

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import quantlab as ql
from quantlab.core.slices import VALUES
from quantlab.shipping.recipe import Rule
from quantlab.shipping.rehearsal import assigned
from quantlab.shipping.shipping import ship

ROOT = Path(__file__).parents[2]
LARGE = (4096, 4096)  # 34 MB of bf16
PROGRAM = """
import sys
import quantlab as ql
from tests.peak import peak
small = ql.audit(*sys.argv[1:3])  # what a process needs anyway: pandas, kernels, the table of names
before = peak()
found = ql.audit(*sys.argv[3:5])
assert len(found.frame) == 2 and found.whole.tensors == 2, found.frame
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize("format, slug", [("gguf", "q4_0"), ("compressed-tensors", "int4-sym-g128-minmax")])
def test_an_audit_holds_no_more_than_two_tensors(format, slug, tmp_path, rng):
    arguments = []
    for name, shape, count in (("small", (64, 128), 1), ("large", LARGE, 2)):
        x = rng.standard_normal(shape, np.float32).astype(ml_dtypes.bfloat16)
        source = tmp_path / name
        source.mkdir()
        save_file({f"layers.{i}.fc.weight": x for i in range(count)}, source / "model.safetensors")
        (source / "config.json").write_text('{"torch_dtype": "bfloat16"}')
        out = tmp_path / f"{name}-out{'.gguf' if format == 'gguf' else ''}"
        with ql.open_checkpoint(source) as checkpoint:
            ship(checkpoint, assigned(checkpoint, [Rule.parse(slug)], format), out, format)
        arguments += [out, source]
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr
    # The source's tensor, its codes and those of the better one; of a slice of 4 M values up to 24 bytes each: the
    # source's and the decoded ones in float32, codes, and what unpacking and comparing them put aside.
    assert int(run.stdout) < 2 * (2 * LARGE[0] * LARGE[1]) + 24 * VALUES
