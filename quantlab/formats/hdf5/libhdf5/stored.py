"""How the values of a dataset are stored, as libhdf5 describes it."""

import array
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from h5py import h5d, h5p, h5s, h5t

from .frames import ABSENT, CHUNKED, COMPACT, CONTIGUOUS, MAX_COMPACT, NO_FILL
from .kinds import NOT_NUMPYS

Layout = tuple[dict[str, Any], bytes]  # fields of the row, and the data that go with it


@dataclass(frozen=True)
class Stored:
    """A dataset of one value or more, whose type is one of NumPy's: `name`, in the byte order `order`."""

    dataset: h5d.DatasetID
    properties: h5p.PropDCID
    kind: h5t.TypeID
    shape: tuple[Any, ...]
    name: str
    order: str

    def described(self, chunks: int) -> Layout:
        """The layout; it lists at most so many chunks, and none of a dataset of more: the other side refuses it."""
        layout = self.properties.get_layout()
        if layout == h5d.COMPACT:
            return {"layout": COMPACT}, self.compact()
        if layout == h5d.CHUNKED:
            return self.chunked(chunks)
        address = self.dataset.get_offset()
        if address is None:
            return {"layout": ABSENT, "fill": self.fill()}, b""
        return {"layout": CONTIGUOUS, "address": address}, b""

    def compact(self) -> bytes:
        """The values themselves, which lie in the header of the dataset; none if no header can hold them."""
        if self.kind.get_size() * math.prod(self.shape) > MAX_COMPACT:
            return b""
        data = np.empty(self.shape, f"V{self.kind.get_size()}")
        self.dataset.read(h5s.ALL, h5s.ALL, data, self.kind)
        return data.tobytes()

    def chunked(self, chunks: int) -> Layout:
        """The chunks: for each uint64 of its place, its skipped filters, its address and its size."""
        chunk, numbers = self.properties.get_chunk(), array.array("Q")
        cells = math.prod(-(-length // step) for length, step in zip(self.shape, chunk, strict=True))
        most = cells * (len(chunk) + 3)

        def take(found: h5d.StoreInfo) -> bool | None:
            numbers.extend((*found.chunk_offset, found.filter_mask, found.byte_offset, found.size))
            return len(numbers) > most or None  # whatever is not None ends the iteration

        if cells <= chunks:
            self.dataset.chunk_iter(take)
        filters = [self.filter(place) for place in range(self.properties.get_nfilters())]
        fill = {"fill": self.fill()} if len(numbers) < most else {}
        return {"layout": CHUNKED, "chunk": chunk, "filters": filters, "cells": cells} | fill, numbers.tobytes()

    def filter(self, place: int) -> tuple[int, int, str]:
        """A filter's number, the first of its options (0 if it has none), and its name."""
        code, _, options, name = self.properties.get_filter(place)
        return code, (*options, 0)[0], name.decode(errors="replace")[:80]

    def fill(self) -> str:
        """The value of what was never written: its bytes in hexadecimal, none for zero."""
        if self.properties.fill_value_defined() != h5d.FILL_VALUE_USER_DEFINED:
            return ""
        if self.name in NOT_NUMPYS:  # HDF5 could not convert it to a type of ml_dtypes
            return NO_FILL
        value = np.zeros((), np.dtype(self.name).newbyteorder("<" if self.order == "<" else ">"))
        self.properties.get_fill_value(value)
        return value.tobytes().hex()
