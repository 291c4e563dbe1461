"""Models for the tests of reports, one of them with names that would like to be markup."""

import numpy as np
import safetensors.numpy

import quantlab as ql

SLUGS = ("int3-sym-g32-mse", "int4-sym-g32-mse", "int8-sym-ch0-minmax", "bf16")
HOSTILE = (
    "<script>alert(1)</script>.weight",
    '"><img src=x onerror=alert(1)>.weight',
    "</title></style><b>bold</b>.weight",
    "a|b`c`*d*_e_[f](http://evil.example).weight",
    "javascript:alert(1)//\n\r\x1b[31m\u202egnp.weight",
    "www.evil.example <!-- ]]> &amp; '.weight",
)
ROLES = ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj")


def write(path, names):
    """A model of matrices of 96 x 256."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_t(4, (96, 256)).astype(np.float32) for name in names}
    arrays["model.norm.weight"] = np.ones(64, np.float32)
    safetensors.numpy.save_file(arrays, path)
    return path


def layers(blocks=3):
    """A decoder's weights."""
    return [f"model.layers.{i}.{role}.weight" for i in range(blocks) for role in ROLES]


def measured(path, slugs=SLUGS):
    """The open checkpoint, a table, and the problem of its plans."""
    checkpoint = ql.open_checkpoint(path)
    table = ql.sweep(checkpoint, [ql.QuantConfig.parse(slug) for slug in slugs])
    return checkpoint, table, ql.problem(table, checkpoint)
