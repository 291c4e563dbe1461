"""The manifest: what it says, and that nothing is believed that a stranger wrote in it."""

import hashlib
import json
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from quantlab import QuantConfig, quantize
from quantlab.core.granularity import GRANULARITIES
from quantlab.errors import CheckpointError, ExportError
from quantlab.formats import export, load_packed, open_checkpoint
from quantlab.formats.output import manifest, packed
from quantlab.formats.output.manifest import VERSION

from ..hostile import PACKED

ROOT = Path(__file__).parents[3]


# -- the manifest


@pytest.mark.parametrize("format", PACKED)
def test_the_manifest_says_what_it_is_and_where_it_comes_from(format, few, tmp_path):
    source = tmp_path / "model.npy"
    np.save(source, np.ones(3, np.float32))
    with open_checkpoint(source) as checkpoint:
        path = export(tmp_path / "out", few, format, source=checkpoint)
    said = read_manifest(path, format)
    assert said["format_version"] == 1
    assert said["source"] == {"name": "model.npy", "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
    assert str(tmp_path) not in path.read_bytes().decode("latin-1")
    tensor = said["tensors"][0]
    assert tensor["config"]["slug"] == "int4-sym-g16-mse-sfp16"
    assert tensor["formula"] == "x = q * scale"
    assert tensor["codes"] == {"bits": 4, "count": 300, "type": "signed"}
    assert tensor["groups"] == {"count": 24, "row_length": 50, "row_stride": 4, "group_size": 16}


def test_the_source_of_a_folder_is_its_files(few, tmp_path):
    (tmp_path / "model").mkdir()
    for i in range(2):
        safetensors.numpy.save_file({str(i): np.ones(2, np.float32)}, tmp_path / "model" / f"{i}.safetensors")
    index = {"weight_map": {"0": "0.safetensors", "1": "1.safetensors"}}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    with open_checkpoint(tmp_path / "model") as source:
        said = read_manifest(export(tmp_path / "out", few, source=source), "npz")
        assert said["source"] == {
            "name": f"{tmp_path.name}/model",
            "sha256": source.sha256(),
            "files": source.digests(),
        }


def test_the_version_is_that_of_the_package():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION


def test_every_granularity_has_a_layout():
    assert manifest._LAYOUTS.keys() == set(GRANULARITIES.values())


def read_manifest(path: Path, format: str) -> dict:
    if format == "npz":
        with np.load(path) as file:
            return json.loads(file["manifest"].tobytes())
    with safetensors.safe_open(path, "np") as file:
        return json.loads(file.metadata()["quantlab"])


# -- names


ODD_NAMES = (
    ["../../etc/passwd", "/abs", "a/b", "a\\b", "a:b", "x.npy", "manifest", "con", "NUL.weight", "__metadata__"]
    + ["", ".", "..", ".hidden", "-rf", "@0", "a", "A", "a.packed", "a.packed.packed", "a.scale", "x" * 4000]
    + ["é", "e\u0301", "\u202eypn", "new\nline", "nul\0", '"quoted"', "<img src=x onerror=1>", "=1+1"]
)


@pytest.mark.parametrize("format", PACKED)
def test_any_name_survives_and_none_collides(format, tmp_path):
    tensors = {name: quantize(np.float32([i + 1, 0]), QuantConfig()) for i, name in enumerate(ODD_NAMES)}
    back = load_packed(export(tmp_path / "out", tensors, format))
    assert list(back) == ODD_NAMES
    assert [q.dequantize()[0] for q in back.values()] == [i + 1 for i in range(len(ODD_NAMES))]


def test_an_npz_unpacks_anywhere_without_leaving_its_folder(tmp_path):
    tensors = {name: quantize(np.float32([1, 0]), QuantConfig()) for name in ODD_NAMES}
    with zipfile.ZipFile(export(tmp_path / "out", tensors)) as archive:
        names = archive.namelist()
    assert len({name.lower() for name in names}) == len(names)
    for name in names:
        assert name.isascii()
        assert not set(name) & set('/\\:*?"<>|\0\n')
        assert not name.startswith((".", "-"))
        assert name.split(".")[0].lower() not in ("con", "nul")
        assert len(name) < 255


# -- files of strangers that look like ours


def tampered(path: Path, format: str, change) -> Path:
    """The export at `path` with another manifest, its arrays as they were."""
    said = read_manifest(path, format)
    changed = change(said)
    text = changed if isinstance(changed, str) else json.dumps(said)
    text = text.replace('{"quantlab": ', '{"quantlab":', 1)  # an .npz is ours if its manifest begins as ours do
    if format == "npz":
        with np.load(path) as file:
            arrays = dict(file)
        arrays["manifest"] = np.frombuffer(text.encode(), np.uint8)
        with path.open("wb") as out:
            np.savez(out, **arrays)
    else:
        safetensors.numpy.save_file(safetensors.numpy.load_file(path), path, {"quantlab": text})
    return path


def set_in(*keys_and_value):
    *keys, last, value = keys_and_value

    def change(said):
        for key in keys:
            said = said[key]
        said[last] = value

    return change


T = ("tensors", 0)
CONTRADICTIONS = {
    "a later version": (set_in("format_version", 2), "use a newer one"),
    "no version": (lambda m: m.pop("format_version") and None, "version None"),
    "no tensors": (set_in("tensors", {}), "no list"),
    "a tensor that is no object": (set_in(*T, 3), "without a name"),
    "a name that is no text": (set_in(*T, "name", 3), "without a name"),
    "a name twice": (set_in(*T, "name", "layer.1.weight"), "twice"),
    "another shape": (set_in(*T, "shape", [6, 51]), "contradicts itself"),
    "the same number of values in another shape": (set_in(*T, "shape", [50, 6]), "contradicts itself"),
    "a shape of 2^62": (set_in(*T, "shape", [2**62, 6]), "impossible"),
    "a shape of 5000 digits": (lambda m: json.dumps(m).replace("[6, 50]", "[" + "9" * 5000 + "]"), "not valid JSON"),
    "a shape with 0": (set_in(*T, "shape", [0]), "positive"),
    "a shape with true": (set_in(*T, "shape", [True, 300]), "positive"),
    "a shape of text": (set_in(*T, "shape", "6"), "positive"),
    "65 dimensions": (set_in(*T, "shape", [1] * 65), "65 dimensions"),
    "another configuration": (set_in(*T, "config", "slug", "int8-sym-g16-mse-sfp16"), "contradicts itself"),
    "no configuration": (set_in(*T, "config", None), "cannot be"),
    "an unknown configuration": (set_in(*T, "config", "slug", "int4-sym-g0-mse"), "cannot be"),
    "an axis that is not there": (set_in(*T, "config", "slug", "int4-sym-ch5-mse"), "cannot be"),
    "fewer bits": (set_in(*T, "codes", "bits", 2), "codes must be"),
    "longer groups": (set_in(*T, "groups", "group_size", 32), "groups must be"),
    "no groups": (set_in(*T, "groups", None), "groups must be"),
    "an unknown source": (set_in(*T, "source_dtype", "int8"), "source_dtype"),
    "a source that is a list": (set_in(*T, "source_dtype", ["float32"]), "source_dtype"),
    "a source of no bytes": (set_in(*T, "source_nbytes", 0), "source_nbytes"),
    "a source of true bytes": (set_in(*T, "source_nbytes", True), "source_nbytes"),
    "a source of too many bytes": (set_in(*T, "source_nbytes", 2**63), "source_nbytes"),
    "no arrays": (set_in(*T, "arrays", None), "which array"),
    "an array elsewhere": (set_in(*T, "arrays", "scale", "array", "layer.1.weight.scale"), "arrays must be"),
    "an array that is not there": (
        lambda m: json.dumps(m).replace('"layer.0.weight.', '"layer.9.weight.'), "no tensor 'layer.9.weight.packed'",
    ),
    "one array for two tensors": (lambda m: m["tensors"].append(m["tensors"][0] | {"name": "again"}), "same array"),
    "a key twice": (lambda m: json.dumps(m).replace('"format_version"', '"x": 1, "x": 2, "format_version"'), "twice"),
    "NaN": (lambda m: json.dumps(m).replace('"format_version": 1', '"format_version": NaN'), "not valid JSON"),
    "nesting": (lambda m: '{"quantlab":' + "[" * 100_000, "not valid JSON"),
    "a surrogate": (lambda m: json.dumps(m).replace('"layer.0.weight"', '"\\ud800"'), "without a name"),
}  # fmt: skip


@pytest.mark.parametrize("format", PACKED)
@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_manifest_that_contradicts_itself_or_the_file_is_refused(format, name, few, tmp_path):
    change, word = CONTRADICTIONS[name]
    path = tampered(export(tmp_path / "out", few, format), format, change)
    with pytest.raises(CheckpointError, match=word):
        load_packed(path)


@pytest.mark.parametrize("format", PACKED)
def test_scales_that_are_not_finite_are_refused(format, few, tmp_path, monkeypatch):

    few["layer.1.weight"].scale[2] = np.nan
    monkeypatch.setattr(packed, "same_bits", lambda a, b: True)
    with pytest.raises(ExportError, match=r"cannot be read back.*NaN"):
        export(tmp_path / "out", few, format)
    assert list(tmp_path.iterdir()) == []


def test_a_plain_file_is_no_export(tmp_path):
    np.savez(tmp_path / "x.npz", w=np.ones(2))
    with pytest.raises(CheckpointError, match="use open_checkpoint"):
        load_packed(tmp_path / "x.npz")
