"""Files that are quantized already are recognised, and said to be."""

import importlib.metadata

import numpy as np
import pytest
from safetensors.numpy import save_file

import quantlab as ql

HABITS = {
    "compressed-tensors": ("fc.weight_packed", "fc.weight_scale", np.int32),
    "GPTQ": ("fc.qweight", "fc.scales", np.int32),
    "MLX": ("fc.weight", "fc.scales", np.uint32),
    "bitsandbytes": ("fc.weight", "fc.weight.absmax", np.uint8),
    "scale per weight": ("fc.weight", "fc.weight_scale", np.int8),
}


@pytest.mark.parametrize("habit", HABITS)
def test_codes_with_scales_beside_them_are_recognised(habit, tmp_path):
    codes, scales, dtype = HABITS[habit]
    save_file({codes: np.ones((4, 8), dtype), scales: np.ones((4, 1), np.float32)}, tmp_path / "model.safetensors")
    with ql.open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        assert checkpoint.spec(codes).note == f"already quantized: codes, with their scales in {scales}"
        assert checkpoint.spec(scales).note == ""
        # Neither is a weight: not even scales of two dimensions, which are floats.
        assert checkpoint.spec(codes).aside and checkpoint.spec(scales).aside


def test_integers_without_scales_are_just_integers(tmp_path):
    save_file({"ids": np.ones(4, np.int32), "w": np.ones(4, np.float32)}, tmp_path / "model.safetensors")
    with ql.open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        assert checkpoint.spec("ids").note == ""


def test_somebody_elses_int8_file_is_recognised():
    files = [file.locate() for file in importlib.metadata.distribution("fracast").files]
    path = next(path for path in files if str(path).endswith("int8.safetensors"))
    with ql.open_checkpoint(path) as checkpoint:
        codes = [name for name in checkpoint.names if checkpoint.spec(name).dtype == "int8"]
        assert codes
        assert all("already quantized" in checkpoint.spec(name).note for name in codes)
