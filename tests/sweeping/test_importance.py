"""Sweeps with importance: errors weighted by inputs, in every way of measuring and keeping them."""

import numpy as np
import pytest

import quantlab as ql
from quantlab.core.inputs import Weighting
from quantlab.core.metrics import weighted_sqnr_db
from quantlab.sweeping import tables
from quantlab.sweeping.identity import fingerprint
from quantlab.sweeping.sampled import sampled
from quantlab.sweeping.store import ResultStore
from quantlab.sweeping.sweep import COLUMNS, WEIGHTED, SweepRequest, stream

RNG = np.random.default_rng(8)
SLUGS = [
    "int4-sym-g32-minmax",
    "int4-uni-g7-minmax",
    "int3-aff-ch0-mse",
    "int8-uni-tensor-minmax",
    "int4-sym-ch-1-minmax",
    "fp16",
    "q4_0",
]
CONFIGS = [ql.QuantConfig.parse(slug) for slug in SLUGS]
TENSORS = {
    "matrix": RNG.standard_normal((40, 64)).astype(np.float32),
    "experts": RNG.standard_t(4, (3, 40, 64)).astype(np.float32),
    "large": RNG.standard_normal((700, 1024)).astype(np.float32),
    "other": RNG.standard_normal((8, 64)).astype(np.float32),
}
IMPORTANCE = {
    "matrix": np.square(RNG.standard_normal(64)).astype(np.float32),
    "experts": np.square(RNG.standard_normal((3, 64))).astype(np.float32),
    "large": np.square(RNG.standard_normal(1024)).astype(np.float32),
}


class Columns:
    """The tensors with their output channels along the last axis, as ONNX and Keras have matrices."""

    names = tuple(TENSORS)

    def raw(self, name):
        return np.ascontiguousarray(np.swapaxes(TENSORS[name], -1, -2))

    def spec(self, name):
        from quantlab.formats import TensorSpec

        x = self.raw(name)
        return TensorSpec(name, x.shape, "float32", x.nbytes, channel_axis=x.ndim - 1)


def true_weighted(x: np.ndarray, decoded: np.ndarray, weights: np.ndarray) -> float:
    """10 log10(sum w x^2 / sum w e^2) of [..., inputs]."""
    w = weights[:, None, :] if x.ndim == 3 else weights
    signal, noise = (np.sum(w * np.square(v.astype(np.float64))) for v in (x, x.astype(np.float64) - decoded))
    return 10 * np.log10(signal / noise)


@pytest.fixture(scope="module")
def frame():
    return ql.sweep(TENSORS, CONFIGS, importance=IMPORTANCE)


def test_the_weighted_error_is_that_of_what_is_shipped(frame):
    assert list(frame.columns) == [*COLUMNS, WEIGHTED]
    for (name, slug), figure in frame.set_index(["tensor", "config"])[WEIGHTED].items():
        if name == "other":
            assert np.isnan(figure)
            continue
        x = TENSORS[name]
        decoded = ql.quantize(x, ql.QuantConfig.parse(slug)).dequantize()
        # Two sums of at most n terms of one sign, and a logarithm.
        near = pytest.approx(true_weighted(x, decoded, IMPORTANCE[name]), abs=10 * x.size * 2.0**-52)
        assert figure == near
        assert weighted_sqnr_db(x, decoded, Weighting.of(IMPORTANCE[name], x.shape)) == near


def test_inputs_are_rows_where_channels_are_columns():
    found = ql.sweep(Columns(), CONFIGS[:6], importance=IMPORTANCE)
    for (name, slug), figure in found.set_index(["tensor", "config"])[WEIGHTED].dropna().items():
        x = Columns().raw(name)
        decoded = ql.quantize(x, ql.QuantConfig.parse(slug)).dequantize()
        true = true_weighted(np.swapaxes(x, -1, -2), np.swapaxes(decoded, -1, -2), IMPORTANCE[name])
        assert figure == pytest.approx(true, abs=10 * x.size * 2.0**-52)


def test_equal_weights_change_nothing(frame):
    found = ql.sweep(TENSORS, CONFIGS, importance={name: np.full_like(w, 3) for name, w in IMPORTANCE.items()})
    there = found[WEIGHTED].notna()
    # The order of the sums differs.
    np.testing.assert_allclose(found.loc[there, WEIGHTED], found.loc[there, "sqnr_db"], atol=1e-9)
    ours, theirs = (table.drop(columns=WEIGHTED) for table in (found, frame))
    assert ours.equals(theirs) and ours.equals(ql.sweep(TENSORS, CONFIGS))  # nothing else does, with any weights


def test_importance_of_nothing_is_a_column_of_nothing():
    found = ql.sweep({"w": TENSORS["other"]}, CONFIGS[:1], importance={})
    assert found[WEIGHTED].isna().all()
    assert WEIGHTED not in ql.sweep({"w": TENSORS["other"]}, CONFIGS[:1])


@pytest.mark.parametrize(
    "importance, error, word",
    [
        (
            {"matrix": np.ones(63)},
            ql.ShapeError,
            r"the importance of 'matrix' has shape \(63,\), and must have \(64,\)",
        ),
        ({"experts": np.ones((2, 64))}, ql.ShapeError, r"must have \(64,\) or \(3, 64\)"),
        ({"matrix": np.full(64, np.nan)}, ql.NonFiniteError, "must be finite"),
        ({"nobody": np.ones(64)}, ql.ConfigError, "unknown tensor of the importance 'nobody'"),
    ],
)
def test_what_is_of_another_tensor_is_refused_before_anything_is_measured(importance, error, word, tmp_path):
    def never(request):
        raise AssertionError("nothing is to be measured")

    with pytest.raises(error, match=word) as caught:
        ql.sweep(TENSORS, CONFIGS, importance=importance, runner=never)
    assert "\n" not in str(caught.value)
    with ResultStore(tmp_path) as store, pytest.raises(error, match=word):
        store.run(TENSORS, CONFIGS, importance=importance, title="", location="", runner=never)


def test_a_sample_is_weighted_by_its_own_rows():
    """A tensor whose rows are all alike: any sample of them has the figures of the whole."""
    row = RNG.standard_normal(1024).astype(np.float32)
    x, config = np.tile(row, (2048, 1)), ql.QuantConfig.parse("int4-sym-g32-minmax")
    weights = {"w": IMPORTANCE["large"]}
    whole, part = (ql.sweep({"w": x}, [config], importance=weights, runner=r) for r in (stream, sampled))
    assert part[WEIGHTED][0] == pytest.approx(whole[WEIGHTED][0], abs=1e-9)
    assert list(part.columns) == [*COLUMNS, WEIGHTED, "sqnr_se_db"]
    stack = np.stack([row[:64] * (i + 1) for i in range(256)])[:, None].repeat(8, 1)  # 256 experts, few drawn
    each = np.ones((256, 64), np.float32)
    found = ql.sweep({"w": stack.repeat(4, 1)}, [config], importance={"w": each}, runner=sampled)
    assert found[WEIGHTED][0] == pytest.approx(found["sqnr_db"][0], abs=1e-9)


def test_totals_are_over_the_tensors_that_have_weights(frame):
    found = tables.total(frame).set_index("config")
    for slug in SLUGS:
        rows = frame[(frame["config"] == slug) & frame[WEIGHTED].notna()]
        sizes = [TENSORS[name].size for name in rows["tensor"]]
        mean = np.average(10 ** (-rows[WEIGHTED] / 10), weights=sizes)
        assert found.loc[slug, WEIGHTED] == pytest.approx(-10 * np.log10(mean), abs=1e-9)
    none = tables.total(frame[frame["tensor"] == "other"])
    assert none[WEIGHTED].isna().all() and none["sqnr_db"].notna().all()


# -- kept


def kept(store, importance=None, **options):
    return store.run(TENSORS, CONFIGS, importance=importance, title="t", location="l", **options)


def test_weights_are_part_of_what_a_store_keeps_rows_under(tmp_path, frame):
    with ResultStore(tmp_path) as store:
        plain, weighted = kept(store), kept(store, IMPORTANCE)
        assert weighted.equals(frame) and plain.equals(frame.drop(columns=WEIGHTED))
        assert weighted.attrs["held"] == len(CONFIGS)  # those of the tensor without weights
        assert weighted.attrs["sweep"] != plain.attrs["sweep"]
        again = kept(store, IMPORTANCE)
        assert (again.attrs["held"], again.attrs["sweep"]) == (len(frame), weighted.attrs["sweep"])
        others = kept(store, IMPORTANCE | {"matrix": IMPORTANCE["matrix"][::-1]})
        assert others.attrs["held"] == len(frame) - len(CONFIGS)
        assert store.frame(weighted.attrs["sweep"]).equals(frame)
        assert kept(store).attrs["held"] == len(plain)
        for record in store.sweeps():
            store.delete(record.id)
        with store._database.reading() as sql:
            assert sql.execute("SELECT count(*) FROM results").fetchone() == (0,)


def test_a_file_is_not_read_again_for_the_same_weights(tmp_path):
    np.savez(tmp_path / "m.npz", **TENSORS)
    reads = []
    with ResultStore(tmp_path) as store, ql.open_checkpoint(tmp_path / "m.npz") as checkpoint:
        raw = checkpoint.raw
        checkpoint.raw = lambda name: reads.append(name) or raw(name)
        for importance in (None, IMPORTANCE, None, IMPORTANCE):
            options = {"title": "t", "location": "l", "importance": importance, "tensors": list(TENSORS)}
            before, frame = len(reads), store.run(checkpoint, CONFIGS, **options)
        assert frame.attrs["held"] == len(frame) and len(reads) == before == 2 * len(TENSORS) - 1
        for record in store.sweeps():
            store.delete(record.id)
        with store._database.reading() as sql:
            assert sql.execute("SELECT count(*) FROM files").fetchone() == (0,)


def test_fingerprints_know_weights():
    x = TENSORS["matrix"]
    weights = [Weighting.of(IMPORTANCE["matrix"] * factor, x.shape) for factor in (1, 2)]
    assert len({fingerprint(x), *(fingerprint(x, 0, each) for each in weights)}) == 3


def test_a_runner_is_told_of_the_weights():
    seen = []

    def runner(request: SweepRequest):
        seen.append(request.importance)
        return stream(request)

    ql.sweep(TENSORS, CONFIGS[:1], importance=IMPORTANCE, runner=runner)
    assert set(seen[0]) == set(IMPORTANCE)
