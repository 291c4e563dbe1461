"""The walk over the groups of a file: a row for every dataset, as libhdf5 describes it.

Soft and external links, external storage and virtual datasets are refused: they make any file's bytes look like
weights. What they say of sizes and places is for the other side to check.
"""

import math
from collections.abc import Callable

import h5py
from h5py import h5d, h5g, h5l, h5o, h5s

from .frames import FEW, MAX_CHUNKS, MAX_DEPTH, MAX_NAME, MAX_OBJECTS, NOTHING
from .kinds import kind_of
from .stored import Stored

Tell = Callable[..., None]  # (row, data)


class Fault(Exception):
    """Why the walk ends; its argument is the row that says so."""


def walk(file: object, tell: Tell) -> None:
    """Tell of every dataset in the file. Fault, or any error of h5py's, if that cannot be."""
    with h5py.File(file, "r", locking=False) as opened:
        _Walk(FEW + file.size, tell).group(h5g.open(opened.id, b"/"), "", 0)  # type: ignore[attr-defined]


class _Walk:
    def __init__(self, characters: int, tell: Tell) -> None:
        self.tell = tell
        self.paths: dict[int, str] = {}  # of the groups and datasets seen, by their address
        self.objects, self.characters, self.chunks = MAX_OBJECTS, characters, MAX_CHUNKS

    def group(self, group: h5g.GroupID, path: str, depth: int) -> None:
        """Take in everything in a group; `path` ends with "/", unless it is empty."""
        if depth > MAX_DEPTH:
            raise Fault({"fault": "depth"})
        names: list[bytes] = []

        def take(name: bytes) -> bool | None:
            names.append(name)
            return len(names) > MAX_OBJECTS or None  # whatever is not None ends the iteration

        group.links.iterate(take)
        self.objects -= len(names)
        if self.objects < 0:
            raise Fault({"fault": "objects"})
        for name in sorted(names, key=_natural):
            self.member(group, name, path, depth)

    def member(self, group: h5g.GroupID, name: bytes, above: str, depth: int) -> None:
        """Take in what a name in a group stands for."""
        try:
            path = above + name.decode()
        except UnicodeDecodeError:
            raise Fault({"fault": "name", "path": repr(name[:100])}) from None
        self.characters -= len(path)
        if len(path) > MAX_NAME or self.characters < 0:
            raise Fault({"fault": "paths"})
        link = group.links.get_info(name)
        if link.type != h5l.TYPE_HARD:
            raise Fault({"fault": {h5l.TYPE_SOFT: "soft", h5l.TYPE_EXTERNAL: "external"}.get(link.type, "link"),
                         "path": path})  # fmt: skip
        found, first = h5o.open(group, name), self.paths.setdefault(link.u, path)
        if isinstance(found, h5d.DatasetID):
            if first == path:
                self.dataset(found, path)
            else:
                self.tell({"path": path, "first": first})
        elif isinstance(found, h5g.GroupID) and first == path:
            self.group(found, f"{path}/", depth + 1)
        else:
            raise Fault({"fault": "object", "path": path})

    def dataset(self, dataset: h5d.DatasetID, path: str) -> None:
        """Tell of a dataset."""
        properties, kind, space = dataset.get_create_plist(), dataset.get_type(), dataset.get_space()
        if properties.get_external_count() or properties.get_layout() == h5d.VIRTUAL:
            raise Fault({"fault": "elsewhere", "path": path})
        # A space without any values is called null.
        shape = (0,) if space.get_simple_extent_type() == h5s.NULL else space.get_simple_extent_dims()
        stored = Stored(dataset, properties, kind, shape, *kind_of(kind, dataset))
        row = {"path": path, "shape": shape, "itemsize": kind.get_size(), "kind": stored.name, "order": stored.order}
        if not stored.order or not math.prod(shape):
            self.tell(row | {"layout": NOTHING})
            return
        layout, data = stored.described(self.chunks)
        self.chunks -= layout.pop("cells", 0)
        self.tell(row | layout, data)


def _natural(name: bytes) -> tuple[int, int, bytes]:
    """The order of names: numbers by their value, and before all others."""
    return (0, int(name), b"") if name.isdigit() and len(name) < 10 else (1, 0, name)
