"""Packing: every code of every width comes back, in the layout that is written down."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quantlab as ql
from quantlab.core.packing import ORDERS, STEP, packed_size


def by_hand(codes, bits, order):
    """The bit stream, bit by bit."""
    stream = [(int(code) >> (k if order == "low-first" else bits - 1 - k)) & 1 for code in codes for k in range(bits)]
    return np.packbits(np.array(stream, np.uint8), bitorder="little" if order == "low-first" else "big")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", range(1, 17))
def test_every_code_comes_back(bits, signed, order):
    low = -(1 << (bits - 1)) if signed else 0
    codes = np.arange(low, low + (1 << bits))
    # An odd count as well, so that the last byte is not full.
    for part in (codes, codes[1:]):
        data = ql.pack(part, bits, order)
        assert data.dtype == np.uint8
        assert data.size == packed_size(part.size, bits)
        np.testing.assert_array_equal(ql.unpack(data, bits, part.size, signed, order), part)


@given(data=st.data(), bits=st.integers(1, 16), order=st.sampled_from(ORDERS))
def test_the_stream_is_the_one_that_is_written_down(data, bits, order):
    codes = data.draw(st.lists(st.integers(0, (1 << bits) - 1), max_size=40))
    np.testing.assert_array_equal(ql.pack(np.array(codes, np.int64), bits, order), by_hand(codes, bits, order))


def test_four_bit_layouts():
    assert ql.pack(np.array([1, 2, 3]), 4).tolist() == [0x21, 0x03]
    assert ql.pack(np.array([1, 2, 3]), 4, "high-first").tolist() == [0x12, 0x30]
    assert ql.pack(np.int8([-1, -8, 7, 0, 3]), 4).tolist() == [0x8F, 0x07, 0x03]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 12])
def test_a_stream_longer_than_one_task_is_one_stream(bits):
    codes = np.random.default_rng(0).integers(0, 1 << bits, 2 * STEP + 13)
    data = ql.pack(codes, bits)
    np.testing.assert_array_equal(ql.unpack(data, bits, codes.size, signed=False), codes)
    seam = slice((STEP - 8) * bits // 8, (STEP + 8) * bits // 8)
    np.testing.assert_array_equal(data[seam], by_hand(codes[STEP - 8 : STEP + 8], bits, "low-first"))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", ">i4"])
def test_codes_of_any_integer_type_and_layout_are_packed_alike(dtype):
    codes = np.arange(24).reshape(4, 6).T.astype(dtype)
    np.testing.assert_array_equal(ql.pack(codes, 5), ql.pack(codes.reshape(-1).astype(np.int64), 5))


@pytest.mark.parametrize(
    ("codes", "bits"), [([16], 4), ([-9], 4), ([-1, 8], 4), ([256], 8), ([-129], 8), ([1 << 16], 16), ([2], 1)]
)
def test_a_code_that_does_not_fit_is_an_error(codes, bits):
    with pytest.raises(ql.PackingError, match=f"does not fit {bits} bits"):
        ql.pack(np.array(codes), bits)


@pytest.mark.parametrize("count", [0, 3, 5])
def test_bytes_that_do_not_add_up_are_an_error(count):
    with pytest.raises(ql.PackingError, match="1 were given"):
        ql.unpack(b"\x12", 4, count, signed=False)


@pytest.mark.parametrize("codes", [np.float32([1]), np.array(["a"]), np.array([True]), [2**70]])
def test_only_integers_are_packed(codes):
    with pytest.raises(ql.PackingError, match="only integers"):
        ql.pack(codes, 4)


def test_a_list_that_makes_no_array_is_refused():
    with pytest.raises(ql.PackingError, match="differ in length"):
        ql.pack([[1], [2, 3]], 4)


@pytest.mark.parametrize("bits", [0, 17, -1, 2.5, True, "8", None])
def test_a_width_that_is_none_is_refused(bits):
    with pytest.raises(ql.ConfigError, match="bits is"):
        ql.pack(np.array([1]), bits)


def test_an_order_that_is_none_is_refused():
    with pytest.raises(ql.ConfigError, match="low-first, high-first"):
        ql.pack(np.array([1]), 4, order="middle-first")


@pytest.mark.parametrize("data", [np.int8([1]), [1], "x", None])
def test_only_bytes_are_unpacked(data):
    with pytest.raises(ql.PackingError, match="give bytes"):
        ql.unpack(data, 4, 2, signed=False)


def test_nothing_packs_to_nothing():
    assert ql.pack(np.zeros(0, np.int8), 4).size == 0
    assert ql.unpack(b"", 4, 0, signed=True).size == 0
