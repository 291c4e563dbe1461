"""Quantized tensors: held as the bytes that are exported, decoded by the formula that is written down."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest

import quantlab as ql
from quantlab.core import granularity as layouts
from quantlab.core.granularity import PerChannel, PerGroup

X = np.random.default_rng(4).standard_normal((6, 5, 10)).astype(np.float32)
CONFIGS = ql.grid(
    ["int2", "int3", "int4", "int7", "int8", "int16"],
    ["symmetric", "affine", "uniform"],
    ["tensor", "ch0", "ch1", "ch-1", "g8", "g50", "g1000"],
    scale_dtypes=["fp32", "fp16", "bf16"],
) + ql.grid(["int2", "int4", "int8"], ["symmetric", "affine"], ["tensor", "ch1", "g8"], ["exact"])


def spread(values, config, shape):
    """Values per group, one for each element: by index arithmetic, not by the layout that quantlab uses."""
    index = np.indices(shape)
    granularity = config.granularity
    if isinstance(granularity, PerChannel):
        return values[index[granularity.axis]]
    if isinstance(granularity, PerGroup):
        rest = shape[1] * shape[2]
        return values[index[0], (np.arange(np.prod(shape)).reshape(shape) % rest) // granularity.group_size]
    return np.broadcast_to(values, shape)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_values_are_those_of_the_formula(config):
    q = ql.quantize(X, config)
    scale = spread(q.scale.astype(np.float32), config, X.shape)
    codes = q.codes.astype(np.float32)
    if config.mapping == "uniform":
        expected = spread(q.offset.astype(np.float32), config, X.shape) + codes * scale
    else:
        expected = (codes - spread(q.zero_point.astype(np.float32), config, X.shape)) * scale
    np.testing.assert_array_equal(q.dequantize(), expected)
    np.testing.assert_array_equal(ql.fake_quantize(X, config), expected)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_bytes_are_counted_on_the_arrays_that_exist(config):
    q = ql.quantize(X, config)
    assert q.nbytes == sum(part.nbytes for part in q.parts.values())
    assert q.packed.nbytes == -(-X.size * config.codec.bits // 8)
    assert q.bits_per_weight == 8 * q.nbytes / X.size
    assert q.compression_ratio == X.nbytes / q.nbytes
    assert set(q.parts) == {"packed", "scale"} | {"affine": {"zero_point"}, "uniform": {"offset"}}.get(
        config.mapping, set()
    )


def test_an_int4_tensor_takes_half_a_byte_per_weight():
    q = ql.quantize(np.ones((64, 64), np.float32), ql.QuantConfig(dtype="int4"))
    assert q.packed.nbytes == 64 * 64 // 2


@pytest.mark.parametrize(
    ("granularity", "shape", "scales"),
    [
        (ql.PerTensor(), (3, 4), ()),
        (ql.PerChannel(0), (3, 4), (3,)),
        (ql.PerChannel(1), (3, 4, 5), (4,)),
        (ql.PerChannel(-1), (3, 4, 5), (5,)),
        (ql.PerGroup(4), (3, 4, 5), (3, 5)),
        (ql.PerGroup(8), (3, 4, 5), (3, 3)),
        (ql.PerGroup(4), (10,), (1, 3)),
        (ql.PerGroup(1000), (10,), (1, 1)),
    ],
)
def test_scales_have_the_shape_that_is_written_down(granularity, shape, scales):
    x = np.ones(shape, np.float32)
    assert ql.quantize(x, ql.QuantConfig(granularity=granularity)).scale.shape == scales


@pytest.mark.parametrize("slug", ["int4-aff-g32-minmax", "int8-sym-ch0-percentile", "int8-uni-g100-minmax", "q8_0"])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_rows_are_quantized_alike_alone_and_in_a_tensor_of_many_pieces(slug, dtype):
    config, rows = ql.QuantConfig.parse(slug), 120
    x = np.random.default_rng(1).standard_normal((4 * rows, 3200)).astype(dtype)
    assert x.size > layouts.STREAM
    whole = ql.quantize(x, config)
    parts = [ql.quantize(x[r : r + rows], config) for r in range(0, 4 * rows, rows)]
    np.testing.assert_array_equal(whole.packed, np.concatenate([part.packed for part in parts]))
    np.testing.assert_array_equal(whole.scale, np.concatenate([part.scale for part in parts]))


@pytest.mark.parametrize(
    "layout", ["transposed", "strided", "reversed", "big-endian", "read-only", "unaligned", "fortran"]
)
def test_any_layout_is_quantized_like_its_copy_and_left_as_it_is(layout):
    base = np.random.default_rng(0).standard_normal((12, 16)).astype(np.float32)
    x = {
        "transposed": lambda: base.T,
        "strided": lambda: base[::2, ::3],
        "reversed": lambda: base[::-1, ::-1],
        "big-endian": lambda: base.astype(">f4"),
        "read-only": lambda: np.frombuffer(base.tobytes(), np.float32).reshape(12, 16),
        "unaligned": lambda: np.frombuffer(b"\0" + base.tobytes(), np.float32, 192, 1).reshape(12, 16),
        "fortran": lambda: np.asfortranarray(base),
    }[layout]()
    before = x.copy()
    config = ql.QuantConfig(dtype="int4", granularity=ql.PerGroup(5), calibration=ql.MSE())
    q, twin = ql.quantize(x, config), ql.quantize(np.array(x, np.float32, order="C"), config)
    assert all((q.parts[name] == twin.parts[name]).all() for name in q.parts)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.float64])
def test_other_floats_are_widened_first(dtype):
    x = X.astype(dtype)
    q = ql.quantize(x, ql.QuantConfig())
    np.testing.assert_array_equal(q.codes, ql.quantize(x.astype(np.float32), ql.QuantConfig()).codes)
    assert q.source_dtype == np.dtype(dtype).name


def parts(q, **changes):
    values = {"packed": q.packed, "scale": q.scale, "packed_zero_point": q.packed_zero_point, "offset": q.offset}
    return ql.QuantizedTensor(q.config, changes.pop("shape", q.shape), q.source_dtype, **{**values, **changes})


WITH_A_CONFIG = {
    "quantize": lambda config: ql.quantize(X, config),
    "fake_quantize": lambda config: ql.fake_quantize(X, config),
    "evaluate": lambda config: ql.evaluate(X, config),
    "Observer": ql.Observer,
    "DynamicQuantizer": ql.DynamicQuantizer,
    "QuantizedTensor": lambda config: ql.QuantizedTensor(config, (4,), "float32", np.zeros(4, np.uint8)),
    "sweep": lambda config: ql.sweep(X, [config]),
}


@pytest.mark.parametrize("config", ["int8-sym-tensor-minmax", None, ql.QuantConfig, {"dtype": "int8"}], ids=str)
@pytest.mark.parametrize("call", WITH_A_CONFIG)
def test_what_is_no_configuration_is_refused_by_name(call, config):
    with pytest.raises(ql.ConfigError, match=r"the configuration is .*: give a QuantConfig"):
        WITH_A_CONFIG[call](config)


BROKEN = {
    "too few codes": lambda q: parts(q, packed=q.packed[:-1]),
    "codes of another type": lambda q: parts(q, packed=q.packed.view(np.int8)),
    "no codes": lambda q: parts(q, packed=None),
    "another shape": lambda q: parts(q, shape=(7, 7)),
    "no elements": lambda q: parts(q, shape=(0, 5)),
    "scales of another type": lambda q: parts(q, scale=q.scale.astype(np.float64)),
    "scales of another shape": lambda q: parts(q, scale=q.scale[:-1]),
    "no scales": lambda q: parts(q, scale=None),
    "a scale of 0": lambda q: parts(q, scale=q.scale * 0),
    "a negative scale": lambda q: parts(q, scale=-q.scale),
    "a scale that is NaN": lambda q: parts(q, scale=q.scale * np.float32(np.nan)),
    "too few zero points": lambda q: parts(q, packed_zero_point=q.packed_zero_point[:-1]),
    "no zero points": lambda q: parts(q, packed_zero_point=None),
    "scales that are no array": lambda q: parts(q, scale=[1.0] * 6),
    "a shape that is a list": lambda q: parts(q, shape=[*q.shape]),
    "a shape of fractions": lambda q: parts(q, shape=(6.0, 5, 10)),
    "a source of no known type": lambda q: dataclasses.replace(q, source_dtype="float33"),
    "offsets as well": lambda q: parts(q, offset=q.scale),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_parts_that_do_not_fit_are_refused(broken):
    q = ql.quantize(X, ql.QuantConfig(dtype="int4", mapping="affine", granularity=ql.PerChannel(0)))
    with pytest.raises(ql.QuantlabError):
        BROKEN[broken](q)


def test_zero_points_of_a_tensor_that_has_none_are_refused():
    q = ql.quantize(X, ql.QuantConfig(dtype="int4"))
    with pytest.raises(ql.ShapeError, match="no zero points"):
        parts(q, packed_zero_point=np.zeros(1, np.uint8))


@pytest.mark.parametrize("axis", [2, -3, 63])
def test_an_axis_that_the_tensor_lacks_is_refused(axis):
    with pytest.raises(ql.ShapeError, match=r"legal are -2 to 1"):
        ql.quantize(np.ones((4, 8), np.float32), ql.QuantConfig(granularity=ql.PerChannel(axis)))


def test_too_few_values_for_entropy_are_refused_with_the_floor():
    with pytest.raises(ql.ConfigError, match="at least 512 values per group"):
        ql.quantize(
            np.ones((4, 100), np.float32), ql.QuantConfig(granularity=ql.PerChannel(0), calibration=ql.Entropy())
        )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn"])
def test_compression_is_against_the_bytes_of_the_sources_own_dtype(dtype):
    x = np.ones((4, 64), getattr(ml_dtypes, dtype, dtype))
    config = ql.QuantConfig(dtype="int4", granularity=ql.PerGroup(32))
    q = ql.quantize(x, config)
    assert q.nbytes == 4 * 64 // 2 + 4 * 8
    assert q.compression_ratio == ql.evaluate(x, config).compression_ratio == x.nbytes / q.nbytes


@pytest.mark.parametrize(
    "slug", ["int8-sym-tensor-minmax", "int4-aff-ch1-minmax", "int3-uni-g7-minmax", "q4_0", "bf16"]
)
def test_values_are_decoded_into_the_memory_that_is_given(slug, rng):
    q = ql.quantize(rng.standard_normal((3, 5, 64), dtype=np.float32), ql.QuantConfig.parse(slug))
    out = np.full(q.shape, np.nan, np.float32)
    assert q.dequantize(out) is out
    np.testing.assert_array_equal(out, q.dequantize())


@pytest.mark.parametrize(
    ("out", "error", "word"),
    [
        (np.zeros((4, 8)), ql.DTypeError, "float64"),
        ([0.0], ql.DTypeError, "list"),
        (np.zeros((8, 4), np.float32), ql.ShapeError, r"\(8, 4\)"),
        (np.zeros((8, 4), np.float32).T, ql.ShapeError, "C order"),
    ],
)
def test_memory_of_another_kind_is_refused(out, error, word):
    with pytest.raises(error, match=word):
        ql.quantize(np.ones((4, 8), np.float32), ql.QuantConfig()).dequantize(out)
