"""ggml's block types, against gguf-py: the same bytes out, the same values back."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import quantlab as ql

TYPES = [name for name, kind in ql.DTYPES.items() if kind.block]
RNG = np.random.default_rng(7)
DATA = {
    "gaussian": RNG.standard_normal((64, 256)),
    "heavy tails": RNG.standard_t(2, (16, 128)),
    "zeros": np.zeros((4, 64)),
    "constant": np.full((4, 64), 0.3),
    "negative constant": np.full((4, 64), -0.3),
    "ties": RNG.integers(-16, 16, (64, 64)) / 2,
    "tiny": 1e-20 * RNG.standard_normal((8, 32)),
    "one-sided": np.abs(RNG.standard_normal((8, 64))),
    "three dimensions": RNG.standard_normal((3, 5, 64)),
}


def ggml_blocks(q: ql.QuantizedTensor) -> np.ndarray:
    """The bytes of ggml's layout: scale, offset, fifth bits, then nibbles j and j + 16 of a byte."""
    codes = q.codes.reshape(-1, 32)
    halves = [part.reshape(-1, 1).view(np.uint8) for part in (q.scale, q.offset) if part is not None]
    if q.config.dtype == "q8_0":
        return np.concatenate([*halves, codes.view(np.uint8)], axis=1)
    middle = 2 ** (q.config.codec.bits - 1) if q.offset is None else 0
    unsigned = (codes.astype(np.int16) + middle).astype(np.uint8)
    if q.config.codec.bits == 5:
        halves.append(np.packbits(unsigned >> 4, axis=1, bitorder="little"))
    return np.concatenate([*halves, (unsigned[:, :16] & 15) | ((unsigned[:, 16:] & 15) << 4)], axis=1)


def assert_as_gguf(x: np.ndarray, name: str) -> None:
    q = ql.quantize(x, ql.QuantConfig(dtype=name))
    kind = GGMLQuantizationType[name.upper()]
    with np.errstate(all="ignore"):
        theirs = gguf.quantize(x, kind)
    assert ggml_blocks(q).tobytes() == theirs.tobytes()
    np.testing.assert_array_equal(q.dequantize(), gguf.dequantize(theirs, kind).reshape(x.shape))


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", TYPES)
def test_bytes_and_values_are_those_of_gguf(name, data):
    assert_as_gguf(DATA[data].astype(np.float32), name)


@pytest.mark.parametrize("name", TYPES)
@given(x=hnp.arrays(np.float32, (3, 64), elements=st.floats(-60000, 60000, width=32, allow_subnormal=False)))
def test_bytes_are_those_of_gguf_on_any_values_of_ordinary_size(name, x):
    # Below 2^-100 the inverse of a scale overflows, and ggml's codes are undefined.
    assert_as_gguf(np.where(np.abs(x) < 2.0**-100, 0, x).astype(np.float32), name)


@pytest.mark.parametrize(("name", "bits"), [("q8_0", 8.5), ("q4_0", 4.5), ("q4_1", 5), ("q5_0", 5.5), ("q5_1", 6)])
def test_size_is_that_of_ggml(name, bits):
    assert ql.quantize(DATA["gaussian"].astype(np.float32), ql.QuantConfig(dtype=name)).bits_per_weight == bits


@pytest.mark.parametrize("name", TYPES)
def test_evaluate_equals_measuring_the_decoded_values(name):
    x = DATA["heavy tails"].astype(np.float32)
    config = ql.QuantConfig(dtype=name)
    measured = ql.measure(x, ql.quantize(x, config).dequantize())
    evaluated = ql.evaluate(x, config)
    assert evaluated.mse == pytest.approx(measured.mse, rel=1e-12)
    assert evaluated.max_abs_error == measured.max_abs_error


@pytest.mark.parametrize("name", TYPES)
def test_values_too_small_for_a_scale_become_zero_not_nan(name):
    restored = ql.fake_quantize(np.full((1, 32), 1e-40, np.float32), ql.QuantConfig(dtype=name))
    np.testing.assert_array_equal(restored, 0)


@pytest.mark.parametrize("shape", [(), (33,), (64, 31)])
def test_rows_that_do_not_fill_blocks_are_refused(shape):
    with pytest.raises(ql.ShapeError, match="multiple of 32"):
        ql.quantize(np.ones(shape, np.float32), ql.QuantConfig(dtype="q4_0"))


def test_a_scale_beyond_float16_is_refused():
    with pytest.raises(ql.ConfigError, match="largest float16"):
        ql.quantize(np.full((1, 32), 1e9, np.float32), ql.QuantConfig(dtype="q8_0"))


def test_what_does_not_apply_folds():
    config = ql.QuantConfig(dtype="q4_0", mapping="affine", granularity=ql.PerChannel(), calibration=ql.MSE())
    assert config == ql.QuantConfig(dtype="q4_0")
    assert ql.QuantConfig.parse(config.slug) == config
