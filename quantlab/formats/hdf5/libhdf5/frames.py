"""What the process that reads the structure of a file and the one that asked for it say to each other.

The child asks for bytes of the file and gets them; it sends a row for every dataset, and at last `END` or a `FAULT`.
What it sends is a stranger's word: libhdf5 may have been led astray by the file.
"""

import struct

FRAME = struct.Struct("<BQQ")  # what it is, and two numbers
READY = 0  # sealed: the file may be shown
READ = 1  # offset, count: so many bytes of the file, please; they are the answer
ROW = 2  # bytes of a JSON object, then of data: one dataset
FAULT = 3  # bytes of a JSON object: why there will be no more rows
END = 4  # all rows were sent

SIZE = struct.Struct("<Q")  # the first word to the child: how long the file is

MAX_OBJECTS = 15_000  # groups and datasets, which take a second; Keras has three per layer
MAX_DEPTH = 32  # of groups in each other
MAX_NAME = 4096  # characters of a path
FEW = 100_000  # characters that the paths in any file may have together; a group's is part of those in it
MAX_CHUNKS = 200_000  # of all datasets together, those included that were never written
MAX_COMPACT = 1 << 16  # bytes of a dataset in its own header
MAX_ROW = 1 << 16  # bytes of a row without its data
MAX_RANK = 32  # of HDF5

# How values are stored. NOTHING: they are of no type that can be read, or there are none.
CONTIGUOUS, CHUNKED, COMPACT, ABSENT, NOTHING = "contiguous", "chunked", "compact", "absent", "nothing"
NO_FILL = "unreadable"  # in the place of a fill value that cannot be told
