"""The public names that others build on: what is called, how, and what it gives back."""

import inspect

import numpy as np
import pytest

import quantlab as ql

# Parameters in their order; whatever stands behind them has a default.
CALLS = {
    "QuantConfig": "dtype mapping granularity calibration scale_dtype pow2_scale",
    "PerTensor": "",
    "PerChannel": "axis",
    "PerGroup": "group_size",
    "MinMax": "",
    "Percentile": "lower upper",
    "Entropy": "bins",
    "MSE": "",
    "MovingAverage": "window",
    "EMA": "factor",
    "grid": "dtypes mappings granularities calibrations",
    "quantize": "x config",
    "fake_quantize": "x config",
    "evaluate": "x config channel_axis",
    "measure": "x x_hat channel_axis",
    "Observer": "config",
    "DynamicQuantizer": "config",
    "open_checkpoint": "path",
    "total": "frame",
    "sweep": "source configs tensors workers on_progress cancel",
    "recipe": "plan tool",
    "report": "checkpoint table plan",
    "export": "path tensors format",
    "load_packed": "path",
    "pack": "codes bits order",
    "unpack": "data bits count signed order",
}
COLUMNS = (
    "tensor shape config dtype mapping granularity calibration sqnr_db worst_channel_sqnr_db channels_sqnr_db mse "
    "rmse mae max_abs_error cosine clipped_fraction zeroed_fraction nbytes bits_per_weight compression_ratio"
)
ERRORS = (
    "QuantlabError ConfigError ShapeError EmptyTensorError NonFiniteError DTypeError CalibrationRequiredError "
    "PackingError CheckpointError LimitError ExportError"
)
QUANTIZED = "packed codes scale zero_point offset shape config dequantize nbytes bits_per_weight compression_ratio"
REPORT = (
    "mse rmse mae max_abs_error sqnr_db psnr_db cosine worst_channel_sqnr_db channels_sqnr_db zeroed_fraction "
    "clipped_fraction nbytes bits_per_weight compression_ratio"
)


def test_what_is_written_down_is_exported_and_what_is_exported_is_there():
    assert set(CALLS) | set(ERRORS.split()) | {"PRESETS"} <= set(ql.__all__)
    assert all(hasattr(ql, name) for name in ql.__all__)


@pytest.mark.parametrize("name", CALLS)
def test_a_public_name_is_called_as_it_is_written_down(name):
    parameters = list(inspect.signature(getattr(ql, name)).parameters.values())
    pinned = CALLS[name].split()
    assert [parameter.name for parameter in parameters[: len(pinned)]] == pinned
    assert all(parameter.default is not inspect.Parameter.empty for parameter in parameters[len(pinned) :])


def test_defaults_are_those_that_are_written_down():
    assert ql.QuantConfig() == ql.QuantConfig(
        dtype="int8", mapping="symmetric", granularity=ql.PerTensor(), calibration=ql.MinMax(), scale_dtype="fp32",
        pow2_scale=False,
    )  # fmt: skip
    assert (ql.PerChannel(), ql.PerGroup()) == (ql.PerChannel(axis=0), ql.PerGroup(group_size=128))
    assert (ql.Percentile(), ql.Entropy()) == (ql.Percentile(lower=0.1, upper=99.9), ql.Entropy(bins=2048))
    assert (ql.MovingAverage(), ql.EMA()) == (ql.MovingAverage(window=10), ql.EMA(factor=0.1, batches=16))


def test_results_have_what_is_written_down(tmp_path):
    x = np.float32([[1, 2], [3, 4]])
    q = ql.quantize(x, ql.QuantConfig(mapping="affine"))
    assert all(hasattr(q, name) for name in QUANTIZED.split())
    report = ql.evaluate(x, q.config)
    assert set(REPORT.split()) <= set(vars(report))
    assert ql.sweep(x, [q.config]).columns.tolist() == COLUMNS.split()
    path = ql.export(tmp_path / "out.npz", {"w": q})
    assert path == tmp_path / "out.npz"
    with ql.open_checkpoint(path) as checkpoint:
        assert checkpoint.names == ["w"]
        assert checkpoint.spec("w").shape == (2, 2)
        np.testing.assert_array_equal(checkpoint.load("w"), q.dequantize())
    checkpoint.close()


@pytest.mark.parametrize("name", ERRORS.split())
def test_every_error_has_one_base(name):
    assert issubclass(getattr(ql, name), ql.QuantlabError)
