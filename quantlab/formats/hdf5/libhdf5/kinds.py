"""HDF5's types of values, as NumPy and ml_dtypes call them.

The values are read as they lie in the file, so a type must match one of NumPy's in every bit. Types and their fields:
https://support.hdfgroup.org/documentation/hdf5/latest/_h5_t__u_g.html
"""

from h5py import h5a, h5d, h5t

# (bytes, (place of the sign, of the exponent, its bits, place of the mantissa, its bits), bias) -> NumPy's name
_FLOATS = {
    (1, (7, 3, 4, 0, 3), 7): "float8_e4m3fn",
    (1, (7, 2, 5, 0, 2), 15): "float8_e5m2",
    (2, (15, 10, 5, 0, 10), 15): "float16",
    (2, (15, 7, 8, 0, 7), 127): "bfloat16",
    (4, (31, 23, 8, 0, 23), 127): "float32",
    (8, (63, 52, 11, 0, 52), 1023): "float64",
}
NOT_NUMPYS = {
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
}  # ml_dtypes has them, and those of two bytes little-endian only
_COMPLEX = {"float32": "complex64", "float64": "complex128"}
_ORDERS = {h5t.ORDER_LE: "<", h5t.ORDER_BE: ">"}
_CLASSES = {
    h5t.INTEGER: "integer",
    h5t.FLOAT: "float",
    h5t.STRING: "string",
    h5t.REFERENCE: "reference",
    h5t.VLEN: "vlen",
    h5t.COMPOUND: "compound",
    h5t.ARRAY: "array",
    h5t.OPAQUE: "opaque",
    h5t.ENUM: "enum",
    h5t.BITFIELD: "bitfield",
    h5t.TIME: "time",
}
Found = tuple[str, str]


def kind_of(kind: h5t.TypeID, dataset: h5d.DatasetID) -> Found:
    """NumPy's name of a dataset's type, and its byte order, "<" or ">".

    For text, references, records and so on it is HDF5's name of the class, and "": they are listed, and not read.
    """
    known = kind.get_class()
    found = _READERS[known](kind) if known in _READERS else None
    # Keras stores bfloat16 as two raw bytes, and says so in this attribute; it has it for no other type. To read the
    # text is to follow it into a heap, in which a damaged file can make libhdf5 go round for ever.
    if known == h5t.OPAQUE and kind.get_size() == 2 and h5a.exists(dataset, b"dtype"):
        found = "bfloat16", "<"
    return found or (_CLASSES.get(known, "unknown"), "")


def _ordered(name: str, order: int) -> Found | None:
    """A type by its name and HDF5's byte order; None for one that exists in the other order only."""
    if order not in _ORDERS or (name == "bfloat16" and order != h5t.ORDER_LE):
        return None
    return name, _ORDERS[order]


def _float(kind: h5t.TypeFloatID) -> Found | None:
    name = _FLOATS.get((kind.get_size(), kind.get_fields(), kind.get_ebias()))
    plain = kind.get_precision() == 8 * kind.get_size() and kind.get_norm() == h5t.NORM_IMPLIED
    return _ordered(name, kind.get_order()) if name and plain else None


def _integer(kind: h5t.TypeIntegerID) -> Found | None:
    if kind.get_size() not in (1, 2, 4, 8) or kind.get_precision() != 8 * kind.get_size():
        return None
    sign = "u" if kind.get_sign() == h5t.SGN_NONE else ""
    return _ordered(f"{sign}int{8 * kind.get_size()}", kind.get_order())


def _bool(kind: h5t.TypeEnumID) -> Found | None:
    """h5py's bool: an enumeration of one byte."""
    if kind.get_size() != 1 or kind.get_nmembers() != 2:
        return None
    members = {kind.get_member_name(i): kind.get_member_value(i) for i in range(2)}
    return ("bool", "<") if members == {b"FALSE": 0, b"TRUE": 1} else None


def _complex(kind: h5t.TypeCompoundID) -> Found | None:
    """h5py's complex numbers: a record of two floats, r and i."""
    if kind.get_nmembers() != 2 or [kind.get_member_name(i) for i in range(2)] != [b"r", b"i"]:
        return None
    parts = [kind.get_member_type(i) for i in range(2)]
    if [part.get_class() for part in parts] != [h5t.FLOAT] * 2 or not parts[0].equal(parts[1]):
        return None
    half, found = parts[0].get_size(), _float(parts[0])
    if not found or found[0] not in _COMPLEX or kind.get_size() != 2 * half or kind.get_member_offset(1) != half:
        return None
    return _ordered(_COMPLEX[found[0]], parts[0].get_order())


_READERS = {h5t.FLOAT: _float, h5t.INTEGER: _integer, h5t.ENUM: _bool, h5t.COMPOUND: _complex}
