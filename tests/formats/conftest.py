"""What the tests of file formats share."""

import numpy as np
import pytest

from quantlab import QuantConfig, quantize


@pytest.fixture
def few():
    """Four tensors of different kinds; every kind of part is among theirs."""
    x = np.random.default_rng(1).standard_normal((6, 50), dtype=np.float32)
    slugs = ["int4-sym-g16-mse-sfp16", "int8-aff-ch0-minmax", "int3-uni-tensor-minmax-sbf16", "bf16"]
    return {f"layer.{i}.weight": quantize(x, QuantConfig.parse(slug)) for i, slug in enumerate(slugs)}
