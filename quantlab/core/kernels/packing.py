"""Codes of less than a byte, side by side."""

import numpy as np

from .compiling import jit


@jit
def lanes(bits, width):
    """uint64 with the low `bits` bits of every `width` bits set."""
    mask = np.uint64(0)
    for lane in range(0, 64, width):
        mask |= ((np.uint64(1) << np.uint64(bits)) - np.uint64(1)) << np.uint64(lane)
    return mask


@jit
def close_gaps(word, bits):
    """The `bits` low bits of each byte of a uint64, side by side.

    Every other byte closes up to its neighbour, then every other pair, then the upper four:
    4 bits  0a 0b 0c 0d -> 00ab 00cd -> 0000abcd.
    """
    one, two, four = lanes(bits, 16), lanes(2 * bits, 32), lanes(4 * bits, 64)
    word = (word & one) | ((word >> np.uint64(8 - bits)) & (one << np.uint64(bits)))
    word = (word & two) | ((word >> np.uint64(16 - 2 * bits)) & (two << np.uint64(2 * bits)))
    return (word & four) | ((word >> np.uint64(32 - 4 * bits)) & (four << np.uint64(4 * bits)))


@jit
def open_gaps(word, bits):
    """Inverse of `close_gaps`."""
    one, two, four = lanes(bits, 16), lanes(2 * bits, 32), lanes(4 * bits, 64)
    word = (word & four) | ((word & (four << np.uint64(4 * bits))) << np.uint64(32 - 4 * bits))
    word = (word & two) | ((word & (two << np.uint64(2 * bits))) << np.uint64(16 - 2 * bits))
    return (word & one) | ((word & (one << np.uint64(bits))) << np.uint64(8 - bits))


@jit
def pack_words(words, bits, packed):
    """Pack up to 8 codes at a time, low-first, at less than 8 bits.

    words : unsigned [n], each the bytes of so many codes as fill whole bytes; packed : those bytes, uint8 [n, m].
    """
    for i in range(words.shape[0]):
        word = close_gaps(np.uint64(words[i]), bits)
        if packed.shape[1] == 1:  # 2 and 4 bits: without the inner loop the outer one vectorises
            packed[i, 0] = word & np.uint64(0xFF)
        else:
            for k in range(packed.shape[1]):
                packed[i, k] = (word >> np.uint64(8 * k)) & np.uint64(0xFF)


@jit
def unpack_words(packed, bits, sign, words):
    """Inverse of `pack_words`; `sign` is 2^(bits-1) for two's complement codes, 0 for unsigned ones."""
    flip, top = lanes(1, 8) * np.uint64(sign), lanes(1, 8) << np.uint64(7)
    for i in range(words.shape[0]):
        word = np.uint64(0)
        if packed.shape[1] == 1:
            word = np.uint64(packed[i, 0])
        else:
            for k in range(packed.shape[1]):
                word |= np.uint64(packed[i, k]) << np.uint64(8 * k)
        # Flipping a code's sign bit and subtracting its weight extends it; `top` keeps bytes from borrowing.
        words[i] = (((open_gaps(word, bits) ^ flip) | top) - flip) ^ top


@jit
def pack_bits(codes, bits, packed):
    """Write the `bits` low bits of each code, low-first: the plain way, for 9 to 15 bits; codes uint16 [n]."""
    mask = (np.uint32(1) << np.uint32(bits)) - np.uint32(1)
    buffer, filled, position = np.uint32(0), np.uint32(0), 0
    for i in range(codes.shape[0]):
        buffer |= (np.uint32(codes[i]) & mask) << filled
        filled += np.uint32(bits)
        while filled >= 8:
            packed[position] = buffer & np.uint32(0xFF)
            buffer >>= np.uint32(8)
            filled -= np.uint32(8)
            position += 1


@jit
def unpack_bits(packed, bits, sign, codes):
    """Inverse of `pack_bits`; `sign` as in `unpack_words`."""
    mask = (np.uint32(1) << np.uint32(bits)) - np.uint32(1)
    buffer, filled, position = np.uint32(0), np.uint32(0), 0
    for i in range(codes.shape[0]):
        while filled < bits:
            buffer |= np.uint32(packed[position]) << filled
            filled += np.uint32(8)
            position += 1
        codes[i] = np.int32((buffer & mask) ^ np.uint32(sign)) - np.int32(sign)
        buffer >>= np.uint32(bits)
        filled -= np.uint32(bits)
