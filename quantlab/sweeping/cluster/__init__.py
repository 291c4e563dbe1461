"""Sweeps past one machine, on Dask distributed: workers read their own bytes, and only rows come back.

A cluster runs what it is sent: whoever reaches its scheduler can run any program on its machines, and it can answer
with any program, too. Connect to no cluster that you do not trust, and let nobody reach one who may not use it.
"""

import re

from ...errors import ConfigError, check_integer, check_number
from ...formats import Checkpoint
from ...wording import shown
from ..sweep import Streamed, SweepRequest
from .connection import Connection, dask
from .work import Work

__all__ = ["ClusterRunner"]

RANGE_VALUES = 1 << 24  # values in a range of rows: seconds of work, and 64 MB as float32
PATIENCE = 60.0  # seconds without any worker until a sweep is given up

ADDRESS = re.compile(r"(tcp|tls|ws|wss)://[^/\s]+:\d{1,5}/?")


class ClusterRunner:
    """Measures tensors on the workers of a Dask cluster; `stream` takes the place of `sweep.stream`.

    A task is a tensor. Of a tensor of more than `range_values` values it is a range of rows, for the granularities
    whose groups lie within rows (per group, and channels along the first axis); the others, such as per tensor, need
    the whole tensor in one task. The rows are those of one machine to the last bit: a range sends the sums of its
    pieces, and they are added here in the order in which one machine adds them. Within a piece a processor adds in as
    many lanes as it has: between processors of different kinds the last bit of a sum may differ.

    Of a tensor whose worker dies, the tasks under way are done by another one. After a Cancel or an error nothing runs
    on. An object of this class holds no connection: every sweep makes its own.

    Parameters
    ----------
    address : of the scheduler: tcp://HOST:PORT.
    range_values : values in a range of rows.
    patience : seconds to wait for a worker while there is none.

    Raises
    ------
    ConfigError : the address is none. ClusterError : Dask is not installed here.

    >>> ClusterRunner("here")
    Traceback (most recent call last):
    quantlab.errors.ConfigError: 'here' is not the address of a scheduler: write tcp://HOST:PORT
    """

    def __init__(self, address: str, *, range_values: int = RANGE_VALUES, patience: float = PATIENCE) -> None:
        if not isinstance(address, str) or not ADDRESS.fullmatch(address):
            raise ConfigError(f"{shown(address)} is not the address of a scheduler: write tcp://HOST:PORT")
        self.address = address
        self.range_values = check_integer("range_values", range_values, 1, 1 << 40)
        self.patience = check_number("patience", patience, 0, 1e9)
        dask()

    def stream(self, request: SweepRequest) -> Streamed:
        """(name, rows) of every tensor, as each is done: a `sweep.Runner`.

        The request's source is a checkpoint that every worker can open by the same path or URL, and its `workers` are
        the threads of one task at most; by default a task takes those of its worker that are free.

        Raises
        ------
        ClusterError : the scheduler cannot be reached or goes away, there are no workers, a worker runs another version
            of quantlab or does not find the file; or, at the end, some tensors were given up.
        ConfigError : the source is not a checkpoint. Cancelled : as asked.
        """
        if not isinstance(request.source, Checkpoint):
            raise ConfigError("a cluster reads tensors from files: give it a checkpoint that was opened, not arrays")
        work, done = Work(request.source, request, self.range_values), 0
        request.tell(done, f"connecting to {self.address}")
        with Connection(self.address, self.patience, request.cancel) as cluster:
            while not work.ended:
                while cluster.free > 0 and (part := work.next_part()):
                    cluster.send(part)
                for tensor in work.completed():
                    yield tensor.name, tensor.rows()
                if not work.ended and (outcome := cluster.next()) is not None:
                    work.take(*outcome)
                    done = max(done, work.rows_done)
                    request.tell(done, f"{outcome[0].tensor.name} ({cluster})")
        work.check()
