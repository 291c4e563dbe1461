"""Configurations: names and objects are inverses, and wrong ones cannot be built."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quantlab as ql
from quantlab.core.calibration import parse_calibration
from quantlab.core.granularity import parse_granularity
from quantlab.core.ranging import Calibration

percentiles = st.floats(0, 49.9) | st.sampled_from([0.1, 1e-5, 0.0])
CALIBRATIONS = st.one_of(
    st.just(ql.MinMax()),
    st.builds(lambda low, high: ql.Percentile(low, 100 - high), percentiles, percentiles),
    st.builds(ql.Entropy, st.integers(1024, 65536)),
    st.just(ql.MSE()),
    st.just(ql.Exact()),
    st.builds(ql.Octav, st.integers(1, 1000)),
    st.builds(ql.MovingAverage, st.integers(1, 10**6)),
    st.builds(ql.EMA, st.floats(1e-9, 1), st.integers(1, 4096)),
)
GRANULARITIES = st.one_of(
    st.just(ql.PerTensor()),
    st.builds(ql.PerChannel, st.integers(-64, 63)),
    st.builds(ql.PerGroup, st.integers(1, 2**31 - 1)),
)


@st.composite
def configs(draw):
    options = {
        "dtype": draw(st.sampled_from(list(ql.DTYPES))),
        "mapping": draw(st.sampled_from(list(ql.MAPPINGS))),
        "granularity": draw(GRANULARITIES),
        "calibration": draw(CALIBRATIONS),
        "scale_dtype": draw(st.sampled_from(["fp32", "fp16", "bf16"])),
        "pow2_scale": draw(st.booleans()),
    }
    try:
        return ql.QuantConfig(**options)
    except ql.ConfigError:
        return ql.QuantConfig(**{**options, "calibration": ql.MSE()})


@given(configs())
def test_a_slug_parses_to_the_configuration_that_it_names(config):
    assert ql.QuantConfig.parse(config.slug) == config
    assert str(config) == config.slug
    # What a URL, a file name and a shell leave alone.
    assert all(c.isalnum() or c in "-._" for c in config.slug)


@given(configs(), configs())
def test_different_configurations_have_different_slugs(a, b):
    assert (a == b) == (a.slug == b.slug)
    assert a != b or hash(a) == hash(b)


def test_the_slug_of_the_documentation():
    config = ql.QuantConfig(dtype="int4", granularity=ql.PerGroup(128), calibration=ql.MSE())
    assert config.slug == "int4-sym-g128-mse"


PRESETS = {
    "int8_symmetric": "int8-sym-tensor-minmax",
    "int8_asymmetric": "int8-aff-tensor-minmax",
    "int8_per_channel": "int8-sym-ch0-minmax",
    "int4_symmetric": "int4-sym-tensor-minmax",
    "int4_per_channel": "int4-sym-ch0-minmax",
    "uniform": "int8-uni-tensor-minmax",
    "symmetric": "int8-sym-tensor-minmax",
    "affine": "int8-aff-tensor-minmax",
    "power_of_two": "int8-uni-tensor-minmax-pow2",
    "int4": "int4-sym-tensor-minmax",
    "uint4": "int4-uni-tensor-minmax",
    "float16": "fp16",
    "bfloat16": "bf16",
    "per_channel_symmetric": "int8-sym-ch-1-minmax",
    "per_channel_affine": "int8-aff-ch-1-minmax",
}


def test_presets_are_found_by_name_and_mean_what_they_say():
    assert {name: ql.PRESETS[name].slug for name in PRESETS} == PRESETS
    assert {"w4_g128", "w4_g32", "w8_channel"} <= set(ql.PRESETS)
    assert all(ql.QuantConfig.parse(name) == config for name, config in ql.PRESETS.items())


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_what_does_not_apply_to_a_cast_folds(dtype):
    found = ql.grid([dtype], ql.MAPPINGS, ["tensor", "g32"], ["minmax", "mse"], ["fp32", "fp16"], [False, True])
    assert found == [ql.QuantConfig(dtype=dtype)]


def test_a_grid_keeps_the_order_of_its_arguments():
    found = ql.grid(["int8", "int4"], ["affine", "symmetric"], ["g32", "tensor"], ["mse"])
    assert [config.slug for config in found][:3] == ["int8-aff-g32-mse", "int8-aff-tensor-mse", "int8-sym-g32-mse"]
    assert len(found) == 8


def test_combinations_say_why_something_is_left_out():
    found, refusals = ql.combinations(["int8", "int16"], calibrations=["entropy"])
    assert [config.slug for config in found] == ["int8-sym-tensor-entropy"]
    assert len(refusals) == 1
    assert "16-bit" in refusals[0]


WRONG = [
    {"dtype": "int1"},
    {"dtype": "int9"},
    {"dtype": 8},
    {"mapping": "asymmetric"},
    {"scale_dtype": "fp8"},
    {"granularity": "tensor"},
    {"granularity": ql.PerTensor},
    {"calibration": "mse"},
    {"calibration": ql.MSE},
    {"calibration": Calibration()},
    {"pow2_scale": 1},
    {"dtype": "int16", "calibration": ql.Entropy()},
    {"dtype": "int8", "mapping": "affine", "calibration": ql.Entropy(bins=512)},
]


@pytest.mark.parametrize("options", WRONG, ids=str)
def test_a_bad_configuration_cannot_be_built(options):
    with pytest.raises(ql.ConfigError):
        ql.QuantConfig(**options)


MISTAKES = [
    {"dtypes": ["int4", "int44"]},
    {"mappings": "asymmetric"},
    {"granularities": [32]},
    {"granularities": ["x3"]},
    {"calibrations": [ql.MSE]},
    {"calibrations": ["least"]},
    {"scale_dtypes": ["fp8"]},
    {"pow2_scales": [1]},
    {"pow2_scales": True},
    {"dtypes": None},
]


@pytest.mark.parametrize("options", MISTAKES, ids=str)
def test_a_grid_leaves_out_combinations_and_no_mistakes(options):
    with pytest.raises(ql.ConfigError):
        ql.grid(**options)


@pytest.mark.parametrize("size", [0, -2, -1, 3.0, 10**12, True, "32", None])
def test_a_group_size_that_is_none_is_refused(size):
    with pytest.raises(ql.ConfigError, match="group_size is"):
        ql.PerGroup(size)


@pytest.mark.parametrize("axis", [1.0, True, "0", None, 64, -65])
def test_an_axis_that_is_none_is_refused(axis):
    with pytest.raises(ql.ConfigError, match="axis is"):
        ql.PerChannel(axis)


@pytest.mark.parametrize(
    "ends", [(101, 102), (-1, 99), (0, 50), (50, 100), (60, 40), (0, float("nan")), (0, "99"), (1, True)]
)
def test_percentiles_without_a_range_are_refused(ends):
    with pytest.raises(ql.ConfigError):
        ql.Percentile(*ends)


@pytest.mark.parametrize("number", [np.float32(99.5), np.float64(99.5), np.int64(99), 99])
def test_a_number_of_any_type_is_a_percentile(number):
    config = ql.QuantConfig(calibration=ql.Percentile(0, number))
    assert type(config.calibration.upper) is float
    assert ql.QuantConfig.parse(config.slug) == config


@pytest.mark.parametrize("bins", [0, 1, 10**9, 2048.0, True])
def test_bins_that_are_none_are_refused(bins):
    with pytest.raises(ql.ConfigError, match="bins is"):
        ql.Entropy(bins)


@pytest.mark.parametrize(
    "build", [lambda: ql.EMA(0), lambda: ql.EMA(1.5), lambda: ql.EMA(0.1, 0), lambda: ql.MovingAverage(0)]
)
def test_averages_that_average_nothing_are_refused(build):
    with pytest.raises(ql.ConfigError):
        build()


NO_SLUGS = [
    "",
    "int5",
    "int4-sym",
    "int4-sym-g128",
    "int4-sym-g128-mse-pow2-pow2",
    "int4-sym-x128-mse",
    "int4-sym-g128-mse_",
    "INT4-SYM-G128-MSE",
    "fp16-sym",
    "int4-sym-g0-mse",
    "int4-sym-g128-percentile5",
    "int4-sym-g128-entropy1.5",
    "../../etc",
    "a" * 10_000,
    None,
    5,
]


@pytest.mark.parametrize("slug", NO_SLUGS)
def test_a_slug_that_names_nothing_is_refused_in_one_sentence(slug):
    with pytest.raises(ql.ConfigError) as refused:
        ql.QuantConfig.parse(slug)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused(text):
    for parse in (ql.QuantConfig.parse, parse_granularity, parse_calibration):
        try:
            parse(text)
        except ql.ConfigError as refused:
            assert str(refused)


def test_an_unknown_name_lists_the_legal_ones_and_the_nearest():
    with pytest.raises(ql.ConfigError, match=r"choose one of int2, .*did you mean int4\?"):
        ql.QuantConfig(dtype="int44")
