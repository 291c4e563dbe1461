"""Files: checkpoints in, packed results out. One module per file format, and `FORMATS` names them all."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from ..core import memory
from ..core.tensor import QuantizedTensor
from ..errors import CheckpointError, ExportError, check_known
from . import snippets
from .checkpoint import Checkpoint, TensorSpec
from .gguf import read as gguf_read
from .gguf import write as gguf_write
from .hdf5 import read as hdf5_read
from .input import foreign, ziparchive
from .input.files import InputFile
from .input.remote import RemoteFile, is_url, local_path, public
from .numpy import npy, npz
from .onnx import described as onnx_described
from .onnx import read as onnx_read
from .onnx import rewrite as onnx_rewrite
from .onnx import write as onnx_write
from .output.atomic import system_errors
from .output.exporting import check_tensors, write_verified
from .output.fileformat import FileFormat
from .output.layout import Layout
from .output.outgoing import Outgoing, outgoing
from .output.packed import PackedCheckpoint
from .safetensors import compressed_tensors, dense, described, mlx
from .safetensors import file as safetensors_file
from .safetensors.folder import INDEX_SUFFIXES, open_folder, open_remote
from .torch import archive as torch_archive
from .writing import export_layout

__all__ = [
    "FORMATS",
    "Checkpoint",
    "FileFormat",
    "PackedCheckpoint",
    "TensorSpec",
    "export",
    "load_packed",
    "open_checkpoint",
]

# In the order in which files are compared with them: of the zip archives .npz comes last, and of all safetensors, which
# has no magic.
FORMATS: dict[str, FileFormat] = {
    "npy": FileFormat(
        name="npy",
        suffix=".npy",
        label="NumPy array (.npy)",
        sniff=npy.sniff,
        open=npy.open_file,
    ),
    "torch": FileFormat(
        name="torch",
        suffix=".pt",
        label="PyTorch checkpoint (.pt, .pth, .bin)",
        aliases=(".pth", ".bin", ".pth.tar"),
        sniff=ziparchive.sniff,
        accepts=torch_archive.accepts,
        open=torch_archive.open_file,
    ),
    "keras": FileFormat(
        name="keras",
        suffix=".keras",
        label="Keras model (.keras)",
        sniff=ziparchive.sniff,
        accepts=hdf5_read.accepts_keras,
        open=hdf5_read.open_keras,
    ),
    "npz": FileFormat(
        name="npz",
        suffix=".npz",
        label="NumPy archive (.npz)",
        sniff=ziparchive.sniff,
        open=npz.open_file,
        write=npz.write,
        nbytes=npz.nbytes,
        verify=npz.verify,
        snippet=snippets.npz,
    ),
    "gguf": FileFormat(
        name="gguf",
        suffix=".gguf",
        label="GGUF (.gguf)",
        sniff=gguf_read.sniff,
        open=gguf_read.open_file,
        layout=Layout(
            refuses=gguf_write.refuses,
            decoded=QuantizedTensor.dequantize,
            write_file=gguf_write.write,
            file_nbytes=gguf_write.nbytes,
            verify_file=gguf_write.verify,
            check=gguf_write.targets,
            read_parts=gguf_write.read_parts,
        ),
        snippet=snippets.gguf,
    ),
    "onnx": FileFormat(
        name="onnx",
        suffix=".onnx",
        label="ONNX (.onnx)",
        sniff=onnx_read.sniff,
        open=onnx_read.open_file,
        layout=Layout(
            refuses=onnx_write.refuses,
            decoded=onnx_write.decoded,
            write_file=onnx_rewrite.write,
            file_nbytes=onnx_rewrite.nbytes,
            verify_file=onnx_rewrite.verify,
            check=onnx_rewrite.check,
            keeps=onnx_rewrite.rewrites,
            unfit=onnx_rewrite.unfit,
            remarks=onnx_rewrite.remarks,
            limits=onnx_rewrite.limits,
            read_back=onnx_write.read_back,
            described=onnx_described.of_onnx,
            note="with fp16 scales, DequantizeLinear rounds values to float16",
        ),
        snippet=snippets.onnx,
    ),
    "hdf5": FileFormat(
        name="hdf5",
        suffix=".h5",
        label="HDF5 weights (.h5, .hdf5)",
        aliases=(".hdf5",),
        sniff=hdf5_read.sniff,
        open=hdf5_read.open_file,
    ),
    "safetensors": FileFormat(
        name="safetensors",
        suffix=".safetensors",
        label="safetensors (.safetensors)",
        sniff=safetensors_file.sniff,
        open=safetensors_file.open_file,
        write=safetensors_file.write,
        nbytes=safetensors_file.nbytes,
        verify=safetensors_file.verify,
        snippet=snippets.safetensors,
    ),
    "dense": FileFormat(
        name="dense",
        suffix=".safetensors",
        label="Decoded values (.safetensors)",
        layout=Layout(
            refuses=dense.refuses,
            specs=dense.specs,
            arrays=dense.arrays,
            decoded=dense.decoded,
            note="values are rounded to the source's dtype",
            rounds=dense.rounds,
        ),
        snippet=snippets.dense,
    ),
    "compressed-tensors": FileFormat(
        name="compressed-tensors",
        suffix="",
        label="compressed-tensors (folder, for vLLM and transformers)",
        folder=True,
        layout=Layout(
            refuses=compressed_tensors.refuses,
            specs=compressed_tensors.specs,
            arrays=compressed_tensors.arrays,
            restore=compressed_tensors.restore,
            described=described.of_compressed_tensors,
            decoded=compressed_tensors.decoded,
            check=compressed_tensors.check,
            unfit=compressed_tensors.unfit,
            stored=compressed_tensors.stored,
            bound=compressed_tensors.bound,
            remarks=compressed_tensors.remarks,
            rounds=compressed_tensors.rounds,
            note="transformers holds scales and values in the model's dtype",
            settings=compressed_tensors.settings,
        ),
        snippet=snippets.compressed_tensors,
    ),
    "mlx": FileFormat(
        name="mlx",
        suffix="",
        label="MLX (folder, for mlx-lm)",
        folder=True,
        layout=Layout(
            refuses=mlx.refuses,
            specs=mlx.specs,
            arrays=mlx.arrays,
            restore=mlx.restore,
            described=described.of_mlx,
            decoded=mlx.decoded,
            check=mlx.check,
            unfit=mlx.unfit,
            note="MLX computes values in the scale's dtype",
            settings=mlx.settings,
        ),
        snippet=snippets.mlx,
    ),
}


def open_checkpoint(path: str | os.PathLike[str], *, name: str | None = None, alone: bool = False) -> Checkpoint:
    """Open a file of tensors, or a folder of safetensors or PyTorch files as Hugging Face writes them.

    Nothing is loaded yet.
    The content decides what the file is, never its name. An export of quantlab opens too, as the decoded values.

    Parameters
    ----------
    path : a regular file, or a folder with one .safetensors or .bin file, or an index of several. Or the
        URL of one: s3://bucket/model.safetensors, or https://host/model/ with a model.safetensors, or its index, in it.
        Only the bytes that are asked for are read. s3:// and others need what requirements-cluster.txt names.
    name : what to call it in messages, if not by the last part of `path`; also names the one tensor of a .npy file.
    alone : read no other file, though this one may name some in its folder (ONNX does): right for an upload.

    Raises
    ------
    CheckpointError : it cannot be opened, or is not what it claims to be.
    LimitError : it exceeds a budget, such as the number of tensors.
    """
    if not isinstance(path, (str, os.PathLike)) or path == "":
        raise CheckpointError(f"cannot open {path!r}: give a path as text or as a pathlib.Path")
    if is_url(path):
        return _open_url(str(path), name, alone)
    if os.path.isdir(path):  # unlike Path.is_dir, false where even looking is not allowed
        return open_folder(Path(path), _open_file)
    return _open_file(InputFile(path, name, alone=alone))


def _open_url(url: str, name: str | None, alone: bool) -> Checkpoint:
    if path := local_path(url):
        return open_checkpoint(path, name=name, alone=alone)
    whole = public(url).endswith(("/", *INDEX_SUFFIXES))
    checkpoint = open_remote(url, _open_file) if whole else _open_file(RemoteFile(url, name))
    checkpoint.location = url
    return checkpoint


def _open_file(file: InputFile) -> Checkpoint:
    try:
        head = bytes(file.read(0, min(64, file.size)))
        with memory.asked(0, f"the structure of {file}"):
            for known in FORMATS.values():
                if known.open and known.sniff(head, file.size) and known.accepts(file):
                    return known.open(file)
        legal = ", ".join(suffix for known in FORMATS.values() for suffix in known.suffixes)
        raise CheckpointError(f"{file} is {foreign.describe(head)}; quantlab opens {legal}")
    except BaseException:
        file.close()
        raise


def load_packed(path: str | os.PathLike[str]) -> dict[str, QuantizedTensor]:
    """The tensors of a file that `export` wrote. Everything in it is checked: it may come from anywhere.

    Raises CheckpointError if it is no such file, or contradicts itself.
    """
    with open_checkpoint(path) as checkpoint:
        if not isinstance(checkpoint, PackedCheckpoint):
            raise CheckpointError(
                f"{checkpoint} is a plain {checkpoint.format} file, not an export of quantlab: use open_checkpoint"
            )
        return {name: checkpoint.quantized(name) for name in checkpoint.packed_names}


def export(
    path: str | os.PathLike[str],
    tensors: Mapping[str, QuantizedTensor],
    format: str = "npz",
    *,
    source: Checkpoint | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Path:
    """Write quantized tensors to a file, read it back, compare every bit, and only then give it its name.

    Parameters
    ----------
    path : the file to write; an existing one is replaced in the last step. A format of folders needs a new name.
    tensors : what to write, by name.
    format : a name of `FORMATS` that can be written: npz, safetensors, compressed-tensors, onnx, gguf, mlx, dense.
    source : where the tensors come from; the manifest then holds its name and the SHA-256 of its bytes.
        For gguf and onnx: a source of the same format is written again, with these tensors quantized in it.
    on_progress : called with (bytes done, bytes in all, what is being done).
    cancel : looked at every few megabytes; when it returns true, Cancelled is raised.

    Returns
    -------
    Path : `path`.

    Raises
    ------
    ExportError : the format cannot hold a tensor, the file cannot be written, or it came back different. Whatever is
        raised, a file that stood at `path` is as it was.
    ConfigError : an unknown format.
    """
    check_tensors(tensors)
    return export_outgoing(path, outgoing(tensors), format, source=source, on_progress=on_progress, cancel=cancel)


def export_outgoing(
    path: str | os.PathLike[str],
    tensors: list[Outgoing],
    format: str = "npz",
    *,
    source: Checkpoint | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Path:
    """`export` for tensors that are quantized, or copied, only when their turn comes: one is in memory at a time.

    They are made a second time to compare the file with, so the whole takes twice the time of quantizing.
    """
    check_known("export format", format, [name for name, known in FORMATS.items() if known.writable])
    if not isinstance(path, (str, os.PathLike)) or path == "":
        raise ExportError(f"cannot write to {path!r}: give a path as text or as a pathlib.Path")
    write = export_layout if FORMATS[format].layout else write_verified
    with system_errors(path):
        write(Path(path), tensors, FORMATS[format], source, on_progress, cancel)
    return Path(path)
