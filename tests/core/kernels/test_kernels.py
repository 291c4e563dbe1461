"""Every kernel against its plain NumPy twin in `reference.py`: equal bits where the arithmetic is exact."""

import itertools
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantlab.core import kernels
from quantlab.core.channels import Channels
from quantlab.core.dtypes import DTYPES, MAPPINGS, SCALE_DTYPES, SUMS, IntegerFormat, fit_ranges, total_error_sums
from quantlab.core.granularity import Groups
from quantlab.core.kernels.records import Fitted, Place, Plan
from quantlab.core.packing import pack_part, unpack_part
from quantlab.core.search import narrowed
from tests.core import reference
from tests.core.reference import Codes, Parameters
from tests.tensors import kinds

BITS = sorted({number.bits for number in DTYPES.values() if isinstance(number, IntegerFormat)})
FLOAT32 = st.floats(allow_nan=False, allow_infinity=False, width=32)
SCALES = st.floats(2.0**-149, reference.FLOAT32_MAX, width=32)
FINITE = st.floats(-6.8e38, 6.8e38, allow_nan=False)  # a range's width may be twice the largest float32
# (rows, columns, group size): one group, short last groups, groups of one value, more values than BLOCK sums at once,
# groups that fill tiles exactly, and those that straddle them.
LAYOUTS = [(1, 8, 8), (3, 100, 32), (4, 9, 1), (2, 600, 600), (1, 9000, 4500), (2, 4096, 128), (3, 3000, 96)]
KINDS = list(kinds(8))

each_mapping = pytest.mark.parametrize("mapping", MAPPINGS)
each_storage = pytest.mark.parametrize("scale_dtype", SCALE_DTYPES)
each_kind = pytest.mark.parametrize("kind", KINDS)
each_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=str)


def matrix_of(kind: str, layout: tuple[int, int, int]) -> tuple[np.ndarray, int]:
    """(float32 [rows, cols], group size), every row rolled so that no two groups are alike."""
    rows, cols, size = layout
    values = kinds(cols)[kind]
    return np.stack([np.roll(values, 3 * r) for r in range(rows)]), size


def fitted_matrix(x: np.ndarray, size: int, mapping: str, bits: int, scale_dtype: str) -> Fitted:
    """Parameters of every group's own range, by the kernel."""
    lo, hi = Groups(x, size).extents
    codec = DTYPES[f"int{bits}"].codec(MAPPINGS[mapping], SCALE_DTYPES[scale_dtype], False)
    return codec.fit_range(lo, hi)


def parameters(fitted: Fitted, r: int, j: int) -> Parameters:
    """The same parameters as the twins take them."""
    return Parameters(float(fitted.scale[r, j]), int(fitted.zero_point[r, j]), float(fitted.offset[r, j]))


def sums_close(found: np.ndarray, exact: np.ndarray, magnitude: np.ndarray, n: int) -> None:
    """Two float64 sums of n terms in any order differ by at most n * 2^-53 of the sum of magnitudes each."""
    np.testing.assert_array_less(np.abs(found - exact), n * 2.0**-52 * magnitude + 1e-300)


# Inlined into kernels that have a twin, or loops over one.
PARTS = {
    "round_trip",
    "decode_nearest",
    "nearest_code",
    "largest_bits",
    "difference",
    "plus_product",
    "add_differences",
    "group",
    "spacing",
    "beats",
    "fit_groups",
    "fit_all",
    "grid_of",
    "storage_of",
    "decode_centered",
    "add_tile",
    "add_flags",
    "add_squares",
    "add_powers",
    "power_of",
    "moved",
    "zeros_of",
    "zeroed_of",
    "best_edge",
    "best_right_edge",
    "least_divergences",
    "histogram_of",
    "best_windows",
    "window_cost",  # which says where to look: what Entropy promises is held in test_core_numbers.py
    "doubtful_windows",
    # Parts of `search_ranges`, held to what MSE promises in test_search.py
    "power_above",
    "scale_values",
    "taken_off",
    "largest_share",
    "fit_trial",
    "fit_trials",
    "about_squared",
    "try_ranges",
    "try_all",
    "best_trial",
    "trials_for",
    "search_group",
    "search_alone",
    "lanes_of",
    "clip_lanes",  # bounds, held to what they bound
    "all_lost",
    "fill",
    "scale_lanes",
    "weigh",
    "about",
    "fit_lanes",
    "keep_better",
    "leaps",
    "set_pace",
    "next_shares",
    "leap",
    "walk",
    "decide",
    "start_round",
    "start_direction",
    "search_direction",
    "search_tile",
    "search_abreast",
    "search_ranges",
    "refit",
    "refitted",
    "reach_of",  # a bound, held to what it bounds
    "bin_indices",
    "squares_of",
    "distance_of",
    "group_tail_sums",
    "octav_end",
    # Parts of `exact_scales`, whose twin goes through every code that changes
    "storable",
    "best_storable",
    "projection",
    "beyond",
    "least_end",
    "least_of",
    "least_error",
    "most_scale",
    "try_scale",
    "settle",
    "first_guess",
    "code_at",
    "count_changes",
    "list_changes",
    "order_changes",
    "order_crowded",
    "code_sums",
    "begin",
    "follow",
    "follow_all",
    "follow_sides",
    "step_sides",
    "exact_group",
    "lanes",
    "close_gaps",
    "open_gaps",
}
# Held to gguf-py in test_ggml.py, which is the better twin.
GGML = {"first_extreme", "inverse", "encode_extreme", "encode_ranged", "encode_magnitude"}
NAMED_OTHERWISE = {
    "group_errors": "squared_error",
    "squared_distance": "difference_sums",
    "group_distances": "difference_sums",
    "channel_powers": "channel_sums",
    "add_channels": "channel_sums",
    "all_error_sums": "error_sums",
    "total_error_sums": "error_sums",
    "small_group_sums": "error_sums",
    "weighted_distance": "weighted_squares",
    "weighted_error": "weighted_squares",
    "all_weighted_errors": "weighted_squares",
    "widen_bfloat16": "widen",
    "widen_float16": "widen",
    "bounds": "usable",
    "about_errors": "range_errors",
    "measure": "range_errors",
    "try_lanes": "range_errors",
    "list_ranges": "narrow",
    "octav_step": "octav",
    "exact_scales": "exact",
    "extent": "extents",
    "key_to_float": "ordered_keys",
    "pack_words": "pack",
    "unpack_words": "unpack",
    "pack_bits": "pack",
    "unpack_bits": "unpack",
}


def compiled() -> dict[str, Any]:
    """All kernels; no two files have one of the same name."""
    found = [
        (name, value)
        for room in (getattr(kernels, subject) for subject in kernels.__all__)
        for name, value in vars(room).items()
        if hasattr(value, "py_func") and value.__module__ == room.__name__
    ]
    assert len(found) == len(dict(found)) > 100
    return dict(found)


def test_every_kernel_has_a_twin():
    without = {name for name in compiled() if not hasattr(reference, NAMED_OTHERWISE.get(name, name))}
    assert without == PARTS | GGML


def test_every_kernel_lets_other_threads_run_is_kept_on_disk_and_starts_no_threads_of_its_own():
    """Two threads in one parallel kernel can abort the process; the pool spreads kernels over ranges."""
    for name, kernel in compiled().items():
        assert kernel.targetoptions["nogil"], name
        assert not kernel.targetoptions.get("parallel"), name
        assert type(kernel._cache).__name__ == "KernelCache", name


# --- number formats -------------------------------------------------------------------------------------------------


@each_storage
@given(value=FINITE)
def test_rounding_to_a_storage_type_finds_the_nearest_value(scale_dtype, value):
    storage = SCALE_DTYPES[scale_dtype].storage
    assert kernels.fitting.round_to(value, storage) == reference.round_to(value, scale_dtype)
    assert kernels.fitting.round_down(value, storage) == reference.round_down(value, scale_dtype)


@each_storage
def test_rounding_at_the_edges_of_a_storage_type(scale_dtype):
    storage = SCALE_DTYPES[scale_dtype].storage
    marks = [storage.smallest, storage.smallest / storage.epsilon, 1.0, storage.largest]
    cases = [f * m for m in marks for f in (0.25, 0.5, 0.75, 1 - 2**-30, 1.0, 1 + 2**-30, 1.5, 2.5)]
    for value in [0.0, *cases, *(-case for case in cases)]:
        assert kernels.fitting.round_to(value, storage) == reference.round_to(value, scale_dtype)
        assert kernels.fitting.round_down(value, storage) == reference.round_down(value, scale_dtype)


@each_storage
def test_every_value_of_a_storage_type_is_its_own_neighbour(scale_dtype):
    storage = SCALE_DTYPES[scale_dtype].storage
    for value in (
        storage.smallest,
        3 * storage.smallest,
        storage.smallest / storage.epsilon,
        1.0,
        1.5,
        storage.largest,
    ):
        assert kernels.fitting.round_to(value, storage) == value == kernels.fitting.round_down(value, storage)
        assert kernels.fitting.round_down(value + kernels.fitting.spacing(value, storage) / 2, storage) == value


@each_mapping
@each_storage
@given(bits=st.sampled_from(BITS), a=FLOAT32, b=FLOAT32)
def test_fit_spreads_the_codes_over_the_range(mapping, scale_dtype, bits, a, b):
    lo, hi = min(a, b), max(a, b)
    codec = DTYPES[f"int{bits}"].codec(MAPPINGS[mapping], SCALE_DTYPES[scale_dtype], False)
    wide = codec.mapping.widen(np.float64(lo), np.float64(hi))
    scale, zero_point, offset = kernels.fitting.fit(*map(float, wide), codec.grid, codec.scale_type.storage)
    assert Parameters(scale, zero_point, offset) == reference.fit(lo, hi, Codes(mapping, bits), scale_dtype)
    assert np.isfinite([scale, zero_point, offset]).all()
    assert scale > 0


@each_mapping
@given(bits=st.sampled_from(BITS), scale=SCALES, share=st.floats(0, 1), offset=FLOAT32)
def test_bounds_are_the_codes_whose_values_are_finite(mapping, bits, scale, share, offset):
    codes = Codes(mapping, bits)
    zero_point, offset = share * codes.highest * (mapping == "affine"), offset * (mapping == "uniform")
    p = Parameters(scale, round(zero_point), offset)
    q = reference.usable(p, codes)
    found = kernels.fitting.bounds(scale, float(p.zero_point), offset, MAPPINGS[mapping].grid(bits))
    assert found == (q[0] - p.zero_point, q[-1] - p.zero_point)
    assert np.isfinite(reference.decode(q, p)).all()


@each_mapping
@each_kind
@each_layout
@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_codes_and_values_are_those_of_the_formulas(mapping, kind, layout, bits):
    (x, size), codes = matrix_of(kind, layout), Codes(mapping, bits)
    fitted = fitted_matrix(x, size, mapping, bits, "fp32")
    found, values = np.empty(x.shape, codes.dtype), np.empty(x.shape, np.float32)
    assert kernels.codes.encode(x, size, fitted, MAPPINGS[mapping].grid(bits), True, found)
    kernels.codes.decode(found, size, fitted, values)
    coded, decoded = reference.groups_of(found, size), reference.groups_of(values, size)
    for r, row in enumerate(reference.groups_of(x, size)):
        for j, group in enumerate(row):
            p = parameters(fitted, r, j)
            np.testing.assert_array_equal(coded[r][j], reference.encode(group, p, codes))
            np.testing.assert_array_equal(decoded[r][j], reference.decode(coded[r][j], p))
    assert np.isfinite(values).all()


# --- error ----------------------------------------------------------------------------------------------------------


@each_mapping
@each_kind
@each_layout
def test_errors_of_groups_are_those_of_encoding_and_decoding(mapping, kind, layout):
    (x, size), codes, grid = matrix_of(kind, layout), Codes(mapping, 4), MAPPINGS[mapping].grid(4)
    shrunk = fitted_matrix(np.ascontiguousarray(x * np.float32(0.7)), size, mapping, 4, "fp32")
    errors = np.full(shrunk.scale.shape, np.nan)
    kernels.errors.group_errors(x, size, shrunk, grid, errors)
    for r, row in enumerate(reference.groups_of(x, size)):
        for j, group in enumerate(row):
            exact = reference.squared_error(group, parameters(shrunk, r, j), codes)
            sums_close(errors[r, j], exact, exact, len(group))


# (first, run, channels) of values: one channel; columns; short and long runs in turns; a part of one, and of a few.
CHANNELS = [(0, 1 << 20, 1), (5, 1, 7), (3, 9, 4), (100, 300, 3), (1000, 130, 600), (0, 1, 20_000)]
each_channels = pytest.mark.parametrize("channels", CHANNELS, ids=str)


def place_of_piece(first: int, run: int, channels: int, size: int) -> tuple[Place, slice]:
    """Where a piece begins, as kernels take it, and which channels it has sums of."""
    turns = first + size > run * channels
    here = Channels(run, channels, turns)
    place = here.place(first, size)
    return place, slice(here.base(first), here.base(first) + int(place.slots))


@each_mapping
@each_kind
@each_layout
def test_total_error_sums_are_those_of_encoding_and_decoding(mapping, kind, layout):
    (x, size), codes, grid = matrix_of(kind, layout), Codes(mapping, 4), MAPPINGS[mapping].grid(4)
    # A range that leaves a part of the values out, so that some are clipped.
    shrunk = fitted_matrix(np.ascontiguousarray(x * np.float32(0.7)), size, mapping, 4, "fp32")
    decoded, exact = np.empty_like(x), []
    for r, row in enumerate(reference.groups_of(x, size)):
        for j, group in enumerate(row):
            p = parameters(shrunk, r, j)
            exact.append(reference.error_sums(group, p, codes))
            decoded[r, j * size : (j + 1) * size] = reference.decode(reference.encode(group, p, codes), p)
    expected, flat, became = reference.fold_sums(np.array(exact)), x.reshape(-1), decoded.reshape(-1)
    squares, zeros = np.square(flat.astype(np.float64) - became), reference.count_zeros(flat)
    products = np.abs(flat.astype(np.float64) * became).sum()
    whole = [kernels.totals.total_error_sums]
    if size % 32 == 0 and x.shape[1] % size == 0 and size <= kernels.compiling.TILE:
        whole.append(kernels.totals.small_group_sums)
    for kernel, channels in itertools.product(whole, CHANNELS):
        place, at = place_of_piece(*channels, x.size)
        total, sums = np.zeros(SUMS), np.zeros(int(place.slots))
        kernel(x, size, shrunk, grid, zeros, place, total, sums)
        sums_close(total[:3], expected[:3], expected[:3], x.size)
        assert total[[3, 4, 6]].tolist() == expected[[3, 4, 6]].tolist()
        sums_close(total[5], expected[5], products, x.size)
        by_channel = reference.channel_sums(squares, *channels)[at]
        sums_close(sums, by_channel, by_channel, x.size)


@each_kind
@each_layout
def test_several_codecs_at_once_are_each_of_them_alone(kind, layout):
    x, size = matrix_of(kind, layout)
    codecs = [
        DTYPES[f"int{bits}"].codec(mapping, scale_type, False)
        for bits, mapping, scale_type in itertools.product((2, 8), MAPPINGS.values(), SCALE_DTYPES.values())
    ]
    ends = Groups(x, size).extents
    together = fit_ranges(codecs, *ends)
    place, _ = place_of_piece(0, x.shape[1], x.shape[0], x.size)
    totals, channels = total_error_sums(codecs, x, size, together, place)
    for k, codec in enumerate(codecs):
        alone = codec.fit_range(*ends)
        assert all(np.array_equal(a, b[k]) for a, b in zip(alone, together, strict=True))
        one = Fitted(*(values[None] for values in alone))
        total, sums = total_error_sums([codec], x, size, one, place)
        assert np.array_equal(totals[k], total[0])
        assert np.array_equal(channels[k], sums[0])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_every_bit_pattern_of_a_16_bit_float_is_widened_to_its_value(dtype):
    bits = np.arange(1 << 16, dtype=np.uint16).reshape(2, -1)
    found = np.empty(bits.shape, np.float32)
    (kernels.widen.widen_float16 if dtype is np.float16 else kernels.widen.widen_bfloat16)(bits, found)
    expected = reference.widen(bits, dtype)
    nan = np.isnan(expected)
    assert np.array_equal(np.isnan(found), nan)
    assert np.array_equal(found.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])


@pytest.mark.parametrize("shape", [(1, 5), (7, 3), (100, 33), (64, 64)], ids=str)
def test_transpose(shape):
    matrix = np.arange(shape[0] * shape[1], dtype=np.uint32).reshape(shape)
    found = np.empty(shape[::-1], np.uint32)
    kernels.widen.transpose(matrix, found)
    assert np.array_equal(found, reference.transpose(matrix))


@each_kind
@each_channels
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_difference_sums(kind, channels, dtype):
    x = kinds(5000)[kind].astype(dtype)
    decoded = (np.float32(0.9) * np.roll(x, 1)).astype(dtype)
    decoded[::7] = 0
    place, at = place_of_piece(*channels, x.size)
    total, sums, powers = np.zeros(SUMS), np.zeros(int(place.slots)), np.zeros(int(place.slots))
    kernels.totals.difference_sums(x, decoded, place, total, sums)
    kernels.totals.channel_powers(x, place, powers)
    exact, wide = reference.difference_sums(x, decoded), x.astype(np.float64)
    sums_close(total[:3], exact[:3], exact[:3], x.size)
    assert total[[3, 4, 6]].tolist() == exact[[3, 4, 6]].tolist()
    sums_close(total[5], exact[5], np.abs(wide * decoded).sum(), x.size)
    for found, squares in ((sums, np.square(wide - decoded)), (powers, np.square(wide))):
        expected = reference.channel_sums(squares, *channels)[at]
        sums_close(found, expected, expected, x.size)


@each_layout
def test_distances_of_groups_are_those_of_each(layout):
    x, size = matrix_of("gaussian", layout)
    errors = np.full(Groups(x, size).shape, np.nan)
    kernels.errors.group_distances(x, -x, size, errors)
    for r, row in enumerate(reference.groups_of(x, size)):
        for j, group in enumerate(row):
            exact = reference.difference_sums(group, -group)[0]
            sums_close(errors[r, j], exact, exact, len(group))


def test_the_largest_error_may_exceed_float32():
    x, sums = np.float32([3e38, 1]), np.zeros(SUMS)
    kernels.totals.difference_sums(x, -x, place_of_piece(0, 2, 1, 2)[0], sums, np.zeros(1))
    assert sums[3] == 2 * float(x[0])


@each_kind
def test_count_zeros(kind):
    x = kinds(5000)[kind]
    assert kernels.totals.count_zeros(x) == reference.count_zeros(x)


RANGES = np.r_[-1e-3:-2:9j, -5, -2.5], np.r_[1e-3:3:9j, 1, 0.5]  # some clip a Gaussian, some do not


@each_mapping
@each_kind
@pytest.mark.parametrize("bits, scale_dtype", [(4, "fp32"), (8, "bf16")])
def test_range_errors_are_those_of_encoding_and_decoding(mapping, kind, bits, scale_dtype):
    x, codes = kinds(2 * kernels.trials.GLANCE + 50)[kind], Codes(mapping, bits)
    codec = DTYPES[f"int{bits}"].codec(MAPPINGS[mapping], SCALE_DTYPES[scale_dtype], False)
    peak = float(np.abs(x).max())
    lo, hi = codec.mapping.widen(*(peak * ends for ends in RANGES))
    exact = reference.range_errors(x, lo, hi, codes, scale_dtype)
    errors = np.zeros(len(lo))
    kernels.ranges.range_errors(x, lo, hi, codec.grid, codec.scale_type.storage, errors)
    np.testing.assert_allclose(errors, exact, rtol=x.size * 2.0**-52, atol=1e-300)
    for *ends, error in zip(lo, hi, exact, strict=True):
        found = kernels.errors.range_error(x, *ends, codec.grid, codec.scale_type.storage)
        assert found == pytest.approx(error, rel=1e-9, abs=1e-300)


def about(found: np.ndarray, exact: np.ndarray, n: int) -> None:
    """Errors of n values of magnitude 2 at most are those of other arithmetic, but for its rounding.

    A value less its offset, the code's distance from there and the decoded value are off by some spacings of float32
    at 4 each, and a code by 1 only where both cost about the same; a sum of n loses n halves of its own spacing.
    """
    np.testing.assert_allclose(np.sqrt(found), np.sqrt(exact), rtol=n * 2.0**-24, atol=np.sqrt(n) * 8 * 2.0**-21)


@each_mapping
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "zeros"])
@pytest.mark.parametrize("bits, scale_dtype", [(4, "fp32"), (8, "bf16"), (16, "fp32")])
def test_trials_see_about_the_errors_of_encoding_and_decoding(mapping, kind, bits, scale_dtype):
    """Of one group under many ranges, and of many groups under one range each."""
    x = kinds(kernels.trials.GLANCE + 51)[kind]
    codes, codec = Codes(mapping, bits), DTYPES[f"int{bits}"].codec(MAPPINGS[mapping], SCALE_DTYPES[scale_dtype], False)
    peak = float(np.abs(x).max())
    factor = np.exp2(-np.floor(np.log2(peak)))
    lo, hi = codec.mapping.widen(*(peak * ends for ends in RANGES))
    errors = np.zeros(len(lo))
    kernels.trials.about_errors(x, lo, hi, factor, codec.grid, codec.scale_type.storage, errors)
    exact = reference.range_errors(x, lo, hi, codes, scale_dtype)
    about(errors, exact * factor**2, x.size)


def tile_of(x: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> kernels.tiles.Tile:
    """A tile of WIDTH groups, the rows of x, and the ranges given for them, [WIDTH, 1] each."""
    empty = [np.empty(x.size, np.float32) for _ in range(2)]
    tile = kernels.tiles.Tile(*empty, np.empty(kernels.tiles.GROUP), np.empty(kernels.trials.TRIAL, np.float32))
    for k in range(kernels.trials.WIDTH):
        kernels.tiles.fill(tile, np.uint64(k), x[k], lo[k, 0], hi[k, 0])
    kernels.tiles.scale_lanes(tile, np.uint64(x.shape[1]))
    return tile


@each_mapping
@each_kind
@pytest.mark.parametrize("size", [1, 3, 8, 37])
def test_lanes_of_a_tile_do_not_touch_each_other(mapping, kind, size):
    """Exact errors, and about the same in trials, of as many groups as there are lanes."""
    x = np.stack([np.roll(kinds(40)[kind], 7 * k)[:size] for k in range(kernels.trials.WIDTH)])
    codec, lanes = DTYPES["int4"].codec(MAPPINGS[mapping], SCALE_DTYPES["fp32"], False), kernels.trials.LANES
    lo, hi = codec.mapping.widen(*(0.7 * end for end in Groups(x, size).extents))
    tile = tile_of(x, lo, hi)
    ends = kernels.tiles.FULL_LO, kernels.tiles.FULL_HI, kernels.tiles.FULL_ERROR
    kernels.tiles.measure(tile, np.uint64(size), *ends, codec.grid, codec.scale_type.storage)
    exact = [
        reference.range_error(x[k], lo[k, 0], hi[k, 0], Codes(mapping, 4), "fp32") for k in range(kernels.trials.WIDTH)
    ]
    exact = np.array(exact)
    errors = tile.state[kernels.tiles.FULL_ERROR : kernels.tiles.FULL_ERROR + lanes]
    np.testing.assert_allclose(errors, exact, rtol=size * 2.0**-52, atol=1e-300)
    factors = tile.state[kernels.tiles.FACTOR : kernels.tiles.FACTOR + lanes]
    for k, factor in enumerate(factors):
        kernels.trials.fit_trial(
            lo[k, 0], hi[k, 0], factor, codec.grid, codec.scale_type.storage, tile.table, np.uint64(k)
        )
    kernels.tiles.try_lanes(tile.scaled, np.uint64(size), tile.table)
    some = np.abs(x).max(axis=1) > 0  # nothing is better for a group of zeros, and nothing is asked
    about(tile.table[:lanes][some], (exact * factors**2)[some], size)


@each_mapping
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", ["gaussian", "outlier", "far from zero", "every scale"])
def test_what_clipping_alone_rules_out_costs_more(mapping, bits, kind):
    size, lanes = 43, kernels.trials.LANES
    x = np.stack([np.roll(kinds(50)[kind], 7 * k)[:size] for k in range(kernels.trials.WIDTH)])
    codec = DTYPES[f"int{bits}"].codec(MAPPINGS[mapping], SCALE_DTYPES["bf16"], False)
    grid, storage = codec.grid, codec.scale_type.storage
    lo, hi = codec.mapping.widen(*Groups(x, size).extents)
    tile = tile_of(x, lo, hi)
    for best in (1e-6, 1e-3, 0.1):
        energy = np.square(x.astype(np.float64)).sum(axis=1)
        below, above = 0.5 * (hi - lo)[:, 0], 0.5 * (hi - lo)[:, 0]
        rows = {"START_LO": lo[:, 0], "START_HI": hi[:, 0], "BELOW": below, "ABOVE": above}
        rows["BEST"] = best * energy * tile.state[kernels.tiles.FACTOR : kernels.tiles.FACTOR + lanes] ** 2
        for name, row in rows.items():
            tile.state[getattr(kernels.tiles, name) : getattr(kernels.tiles, name) + lanes] = row
        lost = [
            share
            for share in np.arange(1, 20) / 20
            if kernels.lanes.all_lost(tile, np.uint64(size), share, grid, storage)
        ]
        for share in lost:
            ends = lo[:, 0] + share * below, hi[:, 0] - share * above
            for k in range(kernels.trials.WIDTH):
                assert kernels.errors.range_error(x[k], ends[0][k], ends[1][k], grid, storage) > best * energy[k]
        assert lost or kind != "gaussian" or bits == 2


@each_mapping
@each_storage
@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@given(
    lo=st.floats(-1e4, 1e4),
    width=st.floats(1e-3, 1e4),
    shares=st.tuples(st.floats(-0.03, 0.499), st.floats(-0.03, 0.499)),  # no width at all gets a scale of 1
    beyond=st.floats(1, 100),
    error=st.floats(0, 1e6),
)
def test_what_a_search_does_not_try_costs_more(mapping, scale_dtype, bits, lo, width, shares, beyond, error):
    codec = DTYPES[f"int{bits}"].codec(MAPPINGS[mapping], SCALE_DTYPES[scale_dtype], False)
    lo, hi = (end.item() for end in codec.mapping.widen(np.float64(lo), np.float64(lo + width)))
    grid, storage = codec.grid, codec.scale_type.storage
    below, above = (shares[0], shares[0]) if codec.mapping.signed else shares
    new_lo, new_hi = lo + below * (hi - lo), hi - above * (hi - lo)
    assume(mapping != "affine" or new_lo <= 0 <= new_hi)  # others are widened: to what another direction tries
    reach = kernels.narrowing.reach_of(lo, hi, error, grid, storage)
    for value, side in ((new_lo - beyond * reach, -np.inf), (new_hi + beyond * reach, np.inf)):
        value = np.nextafter(np.float32([value]), np.float32(side))
        assert kernels.errors.range_error(value, new_lo, new_hi, grid, storage) >= error


@each_kind
@pytest.mark.parametrize("center", [0.0, 0.25])
def test_logarithmic_histograms_hold_every_value_once(kind, center):
    x, bins = kinds(3000)[kind], 4096
    first = int(np.abs(x).max().view(np.int32) >> 14) - bins + 100  # the largest values share the last bin
    found = np.zeros((2, bins, 2))
    kernels.histograms.log_histogram(x, np.float32(center), np.int32(first), found)
    exact = reference.log_histogram(x, center, first, bins)
    np.testing.assert_array_equal(found[..., 0], exact[..., 0])
    np.testing.assert_allclose(found[..., 1], exact[..., 1], rtol=x.size * 2.0**-52)


@each_mapping
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_errors_of_bins_are_those_of_their_means(mapping, bits):
    rng = np.random.default_rng(bits)
    counts, means, center = rng.integers(1, 99, 500).astype(float), rng.standard_normal(500), 0.125
    codec = DTYPES[f"int{bits}"].codec(MAPPINGS[mapping], SCALE_DTYPES["fp32"], False)
    lo, hi = codec.mapping.widen(*RANGES)
    errors = np.empty(len(lo))
    kernels.ranges.binned_errors(counts, means, center, lo, hi, codec.grid, codec.scale_type.storage, errors)
    ranges = list(zip(lo, hi, strict=True))
    exact = reference.binned_errors(counts, means, center, ranges, Codes(mapping, bits))
    np.testing.assert_allclose(errors, exact, rtol=1e-6)


@given(
    lo=st.floats(-100, 100),
    width=st.floats(0, 100),
    cut=st.tuples(st.floats(-0.2, 0.5), st.floats(-0.2, 0.5), st.floats(0, 1)),
)
def test_narrow_takes_off_shares(lo, width, cut):
    cuts = np.array([cut, (0.0, 0.0, 0.0)])
    new_lo, new_hi = narrowed(lo, lo + width, cuts)
    assert (new_lo[0], new_hi[0]) == reference.narrow(lo, lo + width, cuts[0])
    assert (new_lo[1], new_hi[1]) == (lo, lo + width)


@given(
    lo=st.integers(-100, 100),
    width=st.integers(0, 100),
    way=st.tuples(*[st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0])] * 3),
    ends=st.tuples(st.floats(-100, 200), st.floats(-100, 200)),
)
@example(lo=0, width=1, way=(-1.0, -1.0, 1.0), ends=(0.0, 2.0))
def test_ranges_are_listed_until_they_leave_out_too_much(lo, width, way, ends):
    shares = np.r_[0.01:0.4:10j]
    plan = Plan(np.array([way]), shares, np.array([[0, 0, 10]]))
    trials = kernels.trials.trials_for(12, 1)
    count = kernels.alone.list_ranges(float(lo), float(lo + width), plan, 0, *ends, trials, 2)
    expected = [reference.narrow(lo, lo + width, share * np.array(way)) for share in shares]
    found = list(zip(trials.lo[2:count], trials.hi[2:count], strict=True))
    np.testing.assert_allclose(np.reshape(found, (-1, 2)), np.reshape(expected[: count - 2], (-1, 2)), atol=1e-10)
    # Which ends get narrower: of whole numbers and halves, so exact, where the ranges themselves are rounded.
    center = min(max(lo, 0), lo + width)
    below, above = way[0] * width + way[2] * (center - lo), way[1] * width + way[2] * (lo + width - center)
    inside = [  # by how much the wanted ends are still within those ranges; no end that gets wider leaves them out
        min(ends[0] - new_lo if below > 0 else np.inf, new_hi - ends[1] if above > 0 else np.inf)
        for new_lo, new_hi in expected
    ]
    assert all(margin > -1e-9 for margin in inside[: count - 2])
    assert count == 12 or inside[count - 2] < 1e-9


# --- ranges and order statistics ------------------------------------------------------------------------------------


@each_kind
@each_layout
@pytest.mark.parametrize("batches", [1, 3, 16])
def test_extents_are_the_extremes_of_every_batch(kind, layout, batches):
    x, size = matrix_of(kind, layout)
    shape = (*Groups(x, size).shape, batches)
    lo, hi = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    kernels.order.extents(x, size, 0, 0, lo, hi)
    for r, row in enumerate(reference.groups_of(x, size)):
        for j, group in enumerate(row):
            expected = reference.extents(group, batches)
            np.testing.assert_array_equal((lo[r, j], hi[r, j]), expected)


@pytest.mark.parametrize("batches", [1, 3, 16])
def test_extents_of_parts_of_a_group_add_up(batches):
    x, edges = kinds(1000)["gaussian"], [0, 1, 300, 301, 900, 1000]
    parts = []
    for start, end in itertools.pairwise(edges):
        lo, hi = np.empty((1, 1, batches), np.float32), np.empty((1, 1, batches), np.float32)
        kernels.order.extents(x[None, start:end], x.size, start, x.size, lo, hi)
        parts.append((lo[0, 0], hi[0, 0]))
    found = np.min([lo for lo, _ in parts], axis=0), np.max([hi for _, hi in parts], axis=0)
    np.testing.assert_array_equal(found, reference.extents(x, batches))


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_extents_show_what_is_not_finite(bad):
    x = kinds(100)["gaussian"]
    x[37] = bad
    assert not np.isfinite(kernels.order.extent(x)).all()


@given(
    x=hnp.arrays(
        np.float32, st.tuples(st.integers(1, 3), st.sampled_from([1, 40, 3000])), elements=st.floats(width=32)
    ),
    size=st.sampled_from([7, 32, 128, 5000]),
)
def test_values_that_are_not_finite_are_seen_while_they_are_encoded(x, size):
    size, codes = min(size, x.shape[1]), np.empty(x.shape, np.int8)
    ones = np.ones((x.shape[0], -(-x.shape[1] // size)), np.float32)
    fitted, grid = Fitted(ones, 0 * ones, 0 * ones), MAPPINGS["symmetric"].grid(8)
    assert kernels.codes.encode(x, size, fitted, grid, True, codes) == np.isfinite(x).all()
    assert kernels.codes.encode(x, size, fitted, grid, False, codes)


@each_kind
def test_key_histograms_count_values_in_their_order(kind):
    x = kinds(3000)[kind]
    high = np.zeros(1 << 16, np.int64)
    kernels.order.key_histogram(x, 0, 16, high)
    np.testing.assert_array_equal(high, reference.key_histogram(x, 0, 16))
    for prefix in np.unique(reference.ordered_keys(x) >> 16)[:50]:
        low = np.zeros(1 << 16, np.int64)
        kernels.order.key_histogram(x, int(prefix), 0, low)
        np.testing.assert_array_equal(low, reference.key_histogram(x, prefix, 0))


@given(a=st.floats(width=32, allow_nan=False), b=st.floats(width=32, allow_nan=False))
def test_keys_order_as_the_floats_do(a, b):
    first, second = reference.ordered_keys(np.float32([a, b]))
    assert (first < second) == (a < b or (a == b == 0 and math.copysign(1, a) < math.copysign(1, b)))
    signed = np.int32(int(first) - (1 << 31))
    assert kernels.order.key_to_float(signed) == np.float32(a)


@each_kind
def test_tail_sums(kind):
    x, sums = kinds(3000)[kind], np.full(4, np.nan)
    below, above = np.sort(x)[[30, -30]]
    kernels.order.tail_sums(x, below, above, sums)
    exact = reference.tail_sums(x, below, above)
    np.testing.assert_array_equal(sums[[1, 3]], exact[[1, 3]])
    wide = np.abs(x.astype(np.float64))
    magnitude = np.array([wide[x < below].sum(), wide[x > above].sum()])
    sums_close(sums[[0, 2]], exact[[0, 2]], magnitude, x.size)


# --- entropy --------------------------------------------------------------------------------------------------------


@each_kind
@each_layout
@pytest.mark.parametrize("magnitude", [False, True])
def test_histograms_count_every_value_once(kind, layout, magnitude):
    x, size = matrix_of(kind, layout)
    lo, hi = (np.ascontiguousarray(ends) for ends in Groups(np.abs(x) if magnitude else x, size).extents)
    hi = lo + 0.8 * (hi - lo)  # some values lie beyond
    counts = np.full((*lo.shape, 64), -1)
    kernels.histograms.histogram(x, size, lo, hi, int(magnitude), counts)
    for r, row in enumerate(reference.groups_of(x, size)):
        for j, group in enumerate(row):
            expected = reference.histogram(group, lo[r, j], hi[r, j], 64, magnitude)
            np.testing.assert_array_equal(counts[r, j], expected)
            assert counts[r, j].sum() == len(group)


@pytest.mark.parametrize("lo, hi", [(0, 3), (-1, 2), (-3, 0), (-2, 2), (1, 2), (-2, -1), (0, 0)])
@pytest.mark.parametrize("alone", [False, True], ids=["among others", "alone"])
def test_the_bin_of_zero_is_levelled(lo, hi, alone):
    counts = np.random.default_rng(0).integers(0, 1000, (2, 3, 64))
    zero = reference.histogram(np.float32([0]), lo, hi, 64)
    counts = counts * (not alone) + 10_000 * zero
    found = counts.copy()
    kernels.histograms.level_zero(np.full((2, 3), float(lo)), np.full((2, 3), float(hi)), found)
    for r, j in np.ndindex(2, 3):
        np.testing.assert_array_equal(found[r, j], reference.level_zero(counts[r, j], lo, hi))


def test_histogram_agrees_with_numpy_away_from_the_edges():
    edges = np.linspace(-2, 2, 65)
    rng = np.random.default_rng(0)
    x = np.float32(rng.choice((edges[:-1] + edges[1:]) / 2, 5000))
    counts = np.empty((1, 1, 64), np.int64)
    kernels.histograms.histogram(x[None], x.size, np.full((1, 1), -2.0), np.full((1, 1), 2.0), 0, counts)
    np.testing.assert_array_equal(counts[0, 0], np.histogram(x, edges)[0])


def counted(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(total, filled, entropy) of a histogram, by the kernel."""
    sums = tuple(np.zeros(len(counts) + 1) for _ in range(3))
    kernels.entropy.prefix_sums(counts, *sums)
    return sums


def histograms() -> dict[str, np.ndarray]:
    """Histograms of 48 bins, int64, with at least 32 values per bin on average."""
    rng = np.random.default_rng(3)
    bell = np.histogram(rng.standard_normal(20_000), 48)[0]
    return {
        "bell": bell,
        "half bell": np.histogram(np.abs(rng.standard_normal(20_000)), 48)[0],
        "long tail": np.histogram(np.minimum(rng.exponential(1, 50_000), 9), 48)[0],
        "gaps": np.where(np.arange(48) % 5 == 0, bell, 0) * 5 + (np.arange(48) == 47) * 2000,
        "flat": np.full(48, 100),
        "two lumps": np.r_[np.full(8, 900), np.zeros(36, int), np.full(4, 30)],
        "a single bin": np.eye(48, dtype=int)[7] * 5000,
        "far outlier": np.r_[np.full(16, 500), np.zeros(31, int), 1],
    }


each_histogram = pytest.mark.parametrize("counts", histograms().values(), ids=histograms())


@each_histogram
def test_prefix_sums(counts):
    found, exact = counted(counts), reference.prefix_sums(counts)
    np.testing.assert_array_equal(found[:2], exact[:2])
    np.testing.assert_allclose(found[2], exact[2], rtol=48 * 2.0**-52)


@each_histogram
@pytest.mark.parametrize("levels", [4, 7])
def test_divergence_of_every_window_is_that_of_the_two_histograms(counts, levels):
    histogram = kernels.entropy.histogram_of(counts, levels)
    # 3 sums of up to 48 terms, each below n * log n, are subtracted and divided by n.
    bound = 3 * 48 * 2.0**-52 * math.log(counts.sum())
    for left, right in reference.all_windows(48, levels):
        value, freedom = kernels.entropy.divergence(histogram, left, right)
        assert value == pytest.approx(reference.divergence(counts, left, right, levels), abs=bound)
        if value < math.inf:
            assert freedom == reference.freedom(counts, left, right, levels)


@each_histogram
@pytest.mark.parametrize("levels", [4, 12])
def test_the_window_is_the_one_of_least_divergence(counts, levels):
    left, right = kernels.entropy.best_window(counts, levels, False)
    best = reference.divergence(counts, *reference.best_window(counts, levels), levels)
    assert left == 0
    assert reference.divergence(counts, left, right, levels) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("levels", [8, 128])
@pytest.mark.parametrize("size", [512, 5000, 100_000])
@pytest.mark.parametrize("shape", ["gaussian", "uniform", "outlier", "heavy"])
def test_no_edge_that_is_ruled_out_would_have_won(shape, size, levels):
    rng = np.random.default_rng(size)
    x = {
        "gaussian": rng.standard_normal,
        "uniform": rng.random,
        "outlier": lambda n: np.append(rng.standard_normal(n - 1), 40),
        "heavy": lambda n: rng.standard_t(3, n),
    }[shape](size)
    counts = np.histogram(abs(x), 2048)[0]
    histogram, least = kernels.entropy.histogram_of(counts, levels), np.empty(2049 - levels)
    kernels.entropy.least_divergences(histogram.total, least)
    full, full_freedom = kernels.entropy.divergence(histogram, 0, 2048)
    found, best = 2048, full
    for edge in range(2047, levels - 1, -1):
        value, freedom = kernels.entropy.divergence(histogram, 0, edge)
        assert least[edge - levels] <= value + 1e-9
        if kernels.entropy.beats(value, freedom, best, full, full_freedom, size, 2048):
            found, best = edge, value
    assert kernels.entropy.best_window(counts, levels, False) == (0, found)


@each_histogram
@pytest.mark.parametrize("levels", [4, 12])
def test_moving_one_edge_of_a_two_sided_window_does_not_improve_it(counts, levels):
    left, right = kernels.entropy.best_window(counts, levels, True)
    best = reference.divergence(counts, left, right, levels)
    lefts = [(candidate, right) for candidate in range(right - levels + 1)]
    rights = [(left, candidate) for candidate in range(left + levels, 49)]
    others = [reference.divergence(counts, *window, levels) for window in lefts + rights]
    assert best <= min(others) + 1e-12
    assert best <= reference.divergence(counts, 0, 48, levels) + 1e-12


def test_a_coarse_search_loses_little_to_all_windows_of_one_fixed_edge():
    rng = np.random.default_rng(8)
    for x in (rng.standard_normal(1 << 18), rng.laplace(size=1 << 18), rng.exponential(size=1 << 18)):
        counts, levels = np.histogram(x, 2048)[0], 16
        histogram = kernels.entropy.histogram_of(counts, levels)
        left, right = kernels.entropy.best_window(counts, levels, True)
        best = kernels.entropy.divergence(histogram, left, right)[0]
        assert best <= kernels.entropy.divergence(histogram, 0, 2048)[0]
        assert best <= 1.05 * min(
            kernels.entropy.divergence(histogram, left, edge)[0] for edge in range(left + levels, 2049)
        )


@given(x=st.floats(2.0**-11, 2.0**53))
def test_logarithm(x):
    assert kernels.entropy.logarithm(x) == pytest.approx(reference.logarithm(x), rel=5e-16, abs=5e-16)


def test_cross_entropy_passes_over_parts_that_are_empty():
    mass, bins = np.array([0.0, 5, 1, 300]), np.array([0.0, 2, 1, 7])
    found, exact = kernels.entropy.cross_entropy(mass, bins), reference.cross_entropy(mass, bins)
    assert found == pytest.approx(exact, rel=1e-15)


@each_histogram
def test_few_values_need_to_beat_the_full_range_by_more_than_noise(counts):
    few = np.minimum(counts, 20)  # fewer than 32 per bin
    for two_sided in (False, True):
        left, right = kernels.entropy.best_window(few, 4, two_sided)
        if (left, right) == (0, 48):
            continue
        gain = reference.divergence(few, 0, 48, 4) - reference.divergence(few, left, right, 4)
        wide, narrow = reference.freedom(few, 0, 48, 4), reference.freedom(few, left, right, 4)
        assert gain > (wide - narrow + math.sqrt(2 * wide)) / (2 * few.sum())


def test_best_windows_are_those_of_each_histogram():
    counts = np.stack(list(histograms().values())).reshape(2, -1, 48)
    left, right = np.empty(counts.shape[:2], np.int64), np.empty(counts.shape[:2], np.int64)
    kernels.entropy.best_windows(counts, 4, True, left, right)
    for r, j in np.ndindex(left.shape):
        assert (left[r, j], right[r, j]) == kernels.entropy.best_window(counts[r, j], 4, True)


# --- packing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [*range(1, 8), *range(9, 16)])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("order", ["low-first", "high-first"])
def test_packed_bits_are_the_digits_of_a_big_number(bits, signed, order):
    """Through the functions that pad for the kernels and turn the stream around."""
    rng = np.random.default_rng(bits)
    low, high = (-(1 << (bits - 1)), 1 << (bits - 1)) if signed else (0, 1 << bits)
    dtype = np.dtype(("int" if signed else "uint") + ("8" if bits < 8 else "16"))
    for count in (0, 1, 2, 7, 8, 33, 64):
        codes = rng.integers(low, high, count)
        packed = pack_part(codes.astype(dtype), bits, order == "high-first")
        assert packed.tobytes() == reference.pack(codes, bits, order)
        found = unpack_part(packed, bits, dtype, order == "high-first")[:count]
        np.testing.assert_array_equal(found, reference.unpack(packed.tobytes(), bits, count, signed, order))
        np.testing.assert_array_equal(found, codes)


@pytest.mark.parametrize("bits", range(1, 8))
def test_bits_above_a_code_do_not_reach_its_neighbours(bits):
    """Two's complement leaves them set, and so may a caller."""
    codes = np.random.default_rng(bits).integers(0, 256, 64, np.uint8)
    np.testing.assert_array_equal(pack_part(codes, bits, False), pack_part(codes % (1 << bits), bits, False))
