"""Values that number formats trip over, shared by the tests of the core."""

import numpy as np

FLOAT32_MAX = float(np.finfo(np.float32).max)


def gaussian(n: int, seed: int = 0) -> np.ndarray:
    """Standard normal values, float32 [n]."""
    return np.random.default_rng(seed).standard_normal(n, dtype=np.float32)


def kinds(n: int) -> dict[str, np.ndarray]:
    """float32 [n] of every kind worth a test, by name; n >= 8."""
    rng = np.random.default_rng(n)
    ramp = np.resize(np.float32([0.0, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 127.0]), n)
    return {
        "gaussian": gaussian(n),
        "ties": ramp,  # int8 symmetric: scale 1, so that halves are ties
        "positive": rng.uniform(0.5, 1.5, n).astype(np.float32),
        "negative": rng.uniform(-3.0, -2.0, n).astype(np.float32),
        "far from zero": rng.uniform(1000, 1001, n).astype(np.float32),
        "constant": np.full(n, 0.3, np.float32),
        "zeros": np.zeros(n, np.float32),
        "mostly zero": np.where(rng.random(n) < 0.9, 0, gaussian(n, 1)).astype(np.float32),
        "denormal": np.resize(np.float32([1e-45, -1e-45, 2e-44, 0.0, 3e-42]), n),
        "outlier": np.append(gaussian(n - 1), np.float32(1e6)),
        "huge": np.append(gaussian(n - 2) * np.float32(1e37), np.float32([FLOAT32_MAX, -FLOAT32_MAX])),
        "every scale": (gaussian(n) * np.exp2(rng.uniform(-140, 120, n))).astype(np.float32),
    }
