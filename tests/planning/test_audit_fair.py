"""Where the error of weights says nothing, an audit says nothing; and a file that is broken is called so."""

import json
import math
from dataclasses import replace

import gguf
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import quantlab as ql
from quantlab.core.tensor import encode, fit
from quantlab.planning.audit import told
from quantlab.planning.rounding import SHARE, far_share
from quantlab.planning.stored import Stored
from tests.planning.test_audit import KINDS, exported, row_of, sqnr, write_gguf


@pytest.fixture
def layer(tmp_path, rng):
    """A layer with a norm before it, as a model's folder: (folder, its tensors)."""
    tensors = {
        "model.layers.0.input_layernorm.weight": rng.uniform(0.5, 2, 128).astype(np.float32),
        "model.layers.0.self_attn.q_proj.weight": rng.standard_normal((96, 128)).astype(np.float32),
        "model.layers.0.self_attn.o_proj.weight": rng.standard_normal((128, 96)).astype(np.float32),
    }
    return save(tmp_path / "model", tensors), tensors


def save(folder, tensors, **config):
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "torch_dtype": "float32", **config}))
    return folder


Q, OUT, NORM = (f"model.layers.0.{name}.weight" for name in ("self_attn.q_proj", "self_attn.o_proj", "input_layernorm"))


# -- columns that were rescaled


@pytest.mark.parametrize("format", ["compressed-tensors", "gguf"])
def test_scales_of_columns_are_undone_and_told(layer, format, tmp_path, rng):
    folder, tensors = layer
    s = np.exp2(rng.uniform(-2, 2, 128)).astype(np.float32)
    t = np.exp2(rng.uniform(-2, 2, 96)).astype(np.float32)
    scaled = {NORM: tensors[NORM] / s, Q: tensors[Q] * s, OUT: tensors[OUT] * t}  # as AWQ folds them; o's into v
    save(tmp_path / "scaled", scaled)
    rules = {"compressed-tensors": "*_proj.weight=int8-sym-ch0-mse", "gguf": "*_proj.weight=q8_0"}
    out = tmp_path / ("out.gguf" if format == "gguf" else "out")
    exported(tmp_path / "scaled", out, [rules[format]], format)
    found = ql.audit(out, folder)
    with ql.open_checkpoint(out) as file:
        stored = {name: Stored(file).values(name) for name in (Q, OUT)}
    for name, scales, words in ((Q, s, NORM), (OUT, t, "least squares")):
        row = row_of(found, name)
        assert row["verdict"] == "not judged" and words in row["note"] and "rescaled" in row["note"]
        assert row["sqnr_db"] == pytest.approx(sqnr(tensors[name], stored[name]), rel=1e-6) and row["sqnr_db"] < 6
        undone = sqnr(tensors[name], stored[name] / scales)
        # Scales of least squares are as good as those that were used, for the error that they are fitted to.
        assert row["rescaled_sqnr_db"] == pytest.approx(undone, rel=1e-6 if name == Q else 0.01)
        assert undone > 30
    assert len(found.failing(30)) == 0


def test_scales_that_the_rows_of_the_layer_before_took_are_undone_too(layer, tmp_path, rng):
    folder, tensors = layer
    s, t = (np.exp2(rng.uniform(-2, 2, n)).astype(np.float32) for n in (128, 96))
    # As AWQ folds a value projection: its columns' scales into the norm before it, the next layer's into its rows.
    scaled = {NORM: tensors[NORM] / s, Q: tensors[Q] * s / t[:, None], OUT: tensors[OUT] * t}
    save(tmp_path / "scaled", scaled)
    exported(tmp_path / "scaled", tmp_path / "out.gguf", ["*_proj.weight=q4_0"], "gguf")
    found = ql.audit(tmp_path / "out.gguf", folder)
    row = row_of(found, Q)
    assert row["verdict"] == "not judged" and "rows are scaled" in row["note"] and NORM in row["note"]
    assert row["rescaled_sqnr_db"] > 18 > row["sqnr_db"]
    assert "columns are scaled" in row_of(found, OUT)["note"] and found.count("dominated") == 0


def test_rounding_alone_is_never_explained_by_scales(layer, tmp_path):
    folder, _ = layer
    exported(folder, tmp_path / "out", ["*_proj.weight=int2-sym-g32-minmax"], "compressed-tensors")
    assert ql.audit(tmp_path / "out", folder).frame["rescaled_sqnr_db"].isna().all()


# -- codes that were chosen by what a layer computes


def gptq(x, inputs, scale):
    """Codes by GPTQ (Frantar et al. 2022, algorithm 1, one block, no reordering): x [out, in], inputs [tokens, in]."""
    h = inputs.T.astype(np.float64) @ inputs
    h += 0.01 * np.mean(np.diag(h)) * np.eye(len(h))
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    w, codes = np.float64(x), np.empty(x.shape)
    for j in range(x.shape[1]):
        step = scale[:, j // 32]
        codes[:, j] = np.clip(np.rint(w[:, j] / step), -8, 7)
        error = (w[:, j] - codes[:, j] * step) / upper[j, j]
        w[:, j:] -= np.outer(error, upper[j, j:])
    return codes.astype(np.int8)


def test_codes_of_gptq_are_not_judged_though_no_file_says_so(layer, tmp_path, rng):
    folder, tensors = layer
    rules = ["*_proj.weight=int4-sym-g32-minmax-sfp32"]
    exported(folder, tmp_path / "rounded", rules, "compressed-tensors")
    assert set(ql.audit(tmp_path / "rounded", folder).frame["verdict"]) == {"dominated", "identical"}
    config, x = ql.QuantConfig.parse("int4-sym-g32-minmax"), tensors[Q]
    fitted = fit(config.granularity.to_groups(x), config)
    inputs = rng.standard_normal((512, 16)) @ rng.standard_normal((16, 128)) + 0.1 * rng.standard_normal((512, 128))
    codes = gptq(x, inputs, fitted.scale)
    decoded = (codes * np.repeat(fitted.scale, 32, axis=1)).astype(np.float32)
    made = encode(config.granularity.to_groups(decoded), fitted, config, x.shape, "float32")
    assert np.array_equal(made.codes, codes)
    outputs, rounded = inputs @ x.T, ql.fake_quantize(x, config)
    assert sqnr(outputs, inputs @ made.dequantize().T) > sqnr(outputs, inputs @ rounded.T)  # it is GPTQ, and worth it
    assert far_share(x, made) > 5 * SHARE and far_share(x, ql.quantize(x, config)) == 0
    with ql.open_checkpoint(folder) as source:
        others = {OUT: ql.quantize(tensors[OUT], config)}
        ql.export(tmp_path / "gptq", {Q: made, **others}, "compressed-tensors", source=source)
    found = ql.audit(tmp_path / "gptq", folder)
    assert row_of(found, Q)["verdict"] == "not judged" and "not the nearest" in row_of(found, Q)["note"]
    assert row_of(found, OUT)["verdict"] == "dominated"


@pytest.mark.parametrize("slug", ["int4-sym-g32-mse", "int8-sym-ch0-mse", "int8-sym-g32-minmax"])
def test_a_source_in_another_precision_does_not_look_calibrated(slug, layer, tmp_path):
    folder, tensors = layer
    exported(folder, tmp_path / "out", [f"*_proj.weight={slug}"], "compressed-tensors")
    halved = {name: x.astype(ml_dtypes.bfloat16) for name, x in tensors.items()}
    save(tmp_path / "halved", halved)
    assert "not judged" not in set(ql.audit(tmp_path / "out", tmp_path / "halved").frame["verdict"])


@pytest.mark.parametrize("bits", [4, 8])
def test_codes_that_were_chosen_before_scales_were_rounded_are_nearest_ones(bits, layer):
    """As MLX makes them: scales and offsets are stored in the model's dtype once all is done."""
    x = layer[1][Q] + np.float32(0.5)
    q = ql.quantize(x, ql.QuantConfig.parse(f"int{bits}-uni-g64-minmax"))
    parts = {"scale": q.scale.astype(ml_dtypes.bfloat16), "offset": q.offset.astype(ml_dtypes.bfloat16)}
    assert far_share(x, replace(q, config=replace(q.config, scale_dtype="bf16"), **parts)) <= SHARE


def test_columns_in_another_order_are_not_read_as_if_they_were_not(layer, tmp_path):
    folder, _ = layer
    exported(folder, tmp_path / "out", ["*_proj.weight=int4-sym-g32-mse"], "compressed-tensors")
    arrays = load_file(tmp_path / "out" / "model.safetensors")
    order = {f"{Q}_g_idx": np.arange(128, dtype=np.int32)[::-1].copy() // 32}
    save_file(arrays | order, tmp_path / "out" / "model.safetensors")
    found = ql.audit(tmp_path / "out", folder)
    assert "order of its own" in row_of(found, Q)["note"] and math.isnan(row_of(found, Q)["sqnr_db"])
    assert row_of(found, OUT)["verdict"] == "not dominated" and found.matching.alone == ()


def with_imatrix(path, x, kind):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("quantize.imatrix.file", "wiki.imatrix")
    writer.add_tensor("blk.0.ffn_up.weight", gguf.quantize(x, KINDS[kind]), raw_dtype=KINDS[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind, verdict", [("Q4_1", "not judged"), ("Q8_0", "not dominated")])
def test_what_was_rounded_with_an_importance_matrix_is_not_judged_by_plain_error(kind, verdict, tmp_path, rng):
    x = rng.standard_normal((32, 64)).astype(np.float32)
    save_file({"model.layers.0.mlp.up_proj.weight": x}, tmp_path / "model.safetensors")
    path = with_imatrix(tmp_path / "model.gguf", x, kind)
    row = row_of(ql.audit(path, tmp_path / "model.safetensors"), "blk.0.ffn_up.weight")
    assert row["verdict"] == verdict and ("quantize.imatrix.file" in row["note"]) == (verdict == "not judged")
    known = {"model.layers.0.mlp.up_proj.weight": np.ones(64, np.float32)}
    row = row_of(ql.audit(path, tmp_path / "model.safetensors", importance=known), "blk.0.ffn_up.weight")
    assert row["verdict"] == "not dominated" and row["weighted_sqnr_db"] == pytest.approx(row["sqnr_db"], rel=1e-9)


def test_codes_in_a_layout_that_is_not_decoded_are_said_to_be_there(layer, tmp_path):
    folder, tensors = layer
    module = Q.removesuffix(".weight")
    codes = {
        f"{module}.qweight": np.zeros((16, 96), np.int32),
        f"{module}.qzeros": np.zeros((4, 12), np.int32),
        f"{module}.scales": np.ones((4, 96), np.float16),
        f"{module}.g_idx": np.zeros(128, np.int32),
    }
    theirs = save(tmp_path / "gptq", {**codes, NORM: tensors[NORM]}, quantization_config={"quant_method": "gptq"})
    found = ql.audit(theirs, folder)
    assert set(found.frame["tensor"]) == {NORM, f"{module}.qweight"}
    row = row_of(found, f"{module}.qweight")
    assert (row["source"], row["verdict"]) == (Q, "not judged") and "does not decode" in row["note"]
    assert found.matching.alone == () and found.matching.missing == (OUT,)


def test_rotated_weights_are_not_judged(layer, tmp_path, rng):
    folder, tensors = layer
    turn, _ = np.linalg.qr(rng.standard_normal((128, 128)))
    save(tmp_path / "turned", {**tensors, Q: (tensors[Q] @ turn).astype(np.float32)})
    exported(tmp_path / "turned", tmp_path / "out", ["*_proj.weight=int8-sym-ch0-mse"], "compressed-tensors")
    row = row_of(ql.audit(tmp_path / "out", folder), Q)
    assert row["verdict"] == "not judged" and "rotated" in row["note"]
    place = tmp_path / "out" / "config.json"
    config = json.loads(place.read_text())
    config["quantization_config"]["transform_config"] = {"config_groups": {}, "x": 1}
    place.write_text(json.dumps(config))
    found = ql.audit(tmp_path / "out", folder)
    assert "transform_config" in row_of(found, OUT)["note"] and found.count("dominated") == 0


# -- two versions, two quantizations


def test_two_versions_of_a_model_are_compared(layer, tmp_path):
    folder, tensors = layer
    tuned = tensors[Q].copy()
    tuned[:3] *= 1.5
    save(tmp_path / "tuned", {**tensors, Q: tuned})
    found = ql.audit(tmp_path / "tuned", folder)
    row = row_of(found, Q)
    assert row["verdict"] == "compared" and row["equal_fraction"] == 93 / 96
    assert row["sqnr_db"] == pytest.approx(sqnr(tensors[Q], tuned), rel=1e-9)
    assert found.count("identical") == 2 and (found.target, found.whole) == ("", None)
    assert any(f"1 tensor differ, {Q} the most" in line for line in told(found))


def test_two_quantizations_of_a_model_are_compared_and_not_judged(layer, tmp_path):
    folder, _ = layer
    exported(folder, tmp_path / "a.gguf", ["*_proj.weight=q8_0"], "gguf")
    exported(folder, tmp_path / "b", ["*_proj.weight=int4-sym-g32-mse"], "compressed-tensors")
    for first, second in (("a.gguf", "b"), ("b", "a.gguf")):
        found = ql.audit(tmp_path / first, tmp_path / second)
        with ql.open_checkpoint(tmp_path / first) as a, ql.open_checkpoint(tmp_path / second) as b:
            expected = sqnr(Stored(b).values(Q), Stored(a).values(Q))
        row = row_of(found, Q)
        assert row["sqnr_db"] == pytest.approx(expected, rel=1e-9)
        assert (row["verdict"], row["note"]) == ("compared", "its source is quantized itself")


def test_names_without_what_wraps_the_model_are_matched(layer, tmp_path):
    folder, tensors = layer
    save(tmp_path / "bare", {name.removeprefix("model."): x for name, x in tensors.items()})
    found = ql.audit(tmp_path / "bare", folder)
    assert found.count("identical") == 3 and "without what wraps" in found.matching.how


# -- bad input


def test_another_model_is_refused_with_names_of_both(layer, tmp_path, rng):
    folder, _ = layer
    save_file({"encoder.conv.kernel": rng.standard_normal((4, 4)).astype(np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(ql.CheckpointError, match=r"'encoder.conv.kernel' in the one, 'model.layers.0.*' in the other"):
        ql.audit(tmp_path / "x.safetensors", folder)


def test_nan_in_one_of_them_is_told_apart(layer, tmp_path):
    folder, tensors = layer
    bad = tensors[Q].copy()
    bad[0, :2] = np.nan, np.inf
    save(tmp_path / "bad", {**tensors, Q: bad})
    row = row_of(ql.audit(tmp_path / "bad", folder), Q)
    assert (row["verdict"], row["note"]) == ("broken", "2 values of its own NaN or infinite")
    assert math.isnan(row["sqnr_db"]) and row["equal_fraction"] == pytest.approx(1 - 2 / bad.size)
    row = row_of(ql.audit(folder, tmp_path / "bad"), Q)
    assert (row["verdict"], row["note"]) == ("not judged", "2 values of its source's NaN or infinite")


def test_a_config_that_is_no_json_is_said_to_be_so(layer, tmp_path):
    folder, tensors = layer
    (save(tmp_path / "bad", tensors) / "config.json").write_text("{")
    for pair in ((tmp_path / "bad", folder), (folder, tmp_path / "bad")):
        with pytest.raises(ql.CheckpointError, match=r"the config.json beside .* cannot be read"):
            ql.audit(*pair)


def test_other_shapes_are_said_and_fail(layer, tmp_path):
    folder, tensors = layer
    save(tmp_path / "cut", {**tensors, Q: tensors[Q][:64]})
    found = ql.audit(tmp_path / "cut", folder)
    row = row_of(found, Q)
    assert (row["verdict"], row["note"]) == ("other shape", "64x128, and in the source 96x128")
    assert found.failing(0)["tensor"].tolist() == [Q]


def test_integers_are_the_same_or_are_not(layer, tmp_path):
    _, tensors = layer
    save(tmp_path / "a", {**tensors, "ids": np.arange(4)})
    save(tmp_path / "b", {**tensors, "ids": np.arange(1, 5)})
    assert row_of(ql.audit(tmp_path / "a", tmp_path / "a"), "ids")["verdict"] == "identical"
    row = row_of(ql.audit(tmp_path / "a", tmp_path / "b"), "ids")
    assert (row["verdict"], row["note"]) == ("compared", "its integers are not the source's")


def test_a_scale_that_is_nan_is_one_tensors_fault(layer, tmp_path):
    folder, _ = layer
    exported(folder, tmp_path / "out", ["*_proj.weight=int4-sym-g32-mse"], "compressed-tensors")
    arrays = load_file(tmp_path / "out" / "model.safetensors")
    arrays[f"{Q}_scale"][0, 0] = np.nan
    save_file(arrays, tmp_path / "out" / "model.safetensors")
    found = ql.audit(tmp_path / "out", folder)
    assert row_of(found, Q)["verdict"] == "not judged" and "NaN" in row_of(found, Q)["note"]
    assert row_of(found, OUT)["verdict"] == "not dominated"


def test_it_can_be_stopped_and_tells_how_far_it_is(layer):
    folder, tensors = layer
    told_of = []
    ql.audit(folder, folder, on_progress=lambda *progress: told_of.append(progress))
    size = sum(x.size for x in tensors.values())
    assert [done for done, _, _ in told_of] == sorted(done for done, _, _ in told_of)
    assert told_of[0][:2] == (0, size) and told_of[-1] == (size, size, "done") and len(told_of) == len(tensors) + 1
    with pytest.raises(ql.Cancelled):
        ql.audit(folder, folder, cancel=lambda: True)


def test_with_importance_verdicts_are_by_weighted_errors(tmp_path, rng):
    """The largest value of every group is that of an input that counts: what clips it is not better."""
    x = 0.3 * rng.standard_normal((64, 128)).astype(np.float32)
    x[:, ::32] = 8
    w = np.tile(np.float32([100] + [0.01] * 31), 4)
    folder = save(tmp_path / "model", {Q: x})
    exported(folder, tmp_path / "out", [f"{Q}=int4-sym-g32-minmax"], "compressed-tensors")
    against = [ql.QuantConfig.parse("int4-sym-g32-mse")]
    assert row_of(ql.audit(tmp_path / "out", folder, against=against), Q)["verdict"] == "dominated"
    row = row_of(ql.audit(tmp_path / "out", folder, against=against, importance={Q: w}), Q)
    swept = ql.sweep({Q: x}, against, importance={Q: w})["weighted_sqnr_db"][0]
    assert row["verdict"] == "not dominated" and row["weighted_sqnr_db"] > swept + 1


def test_importance_of_another_shape_is_that_tensors_fault(layer, tmp_path):
    folder, _ = layer
    exported(folder, tmp_path / "out", ["*_proj.weight=int4-sym-g32-mse"], "compressed-tensors")
    found = ql.audit(tmp_path / "out", folder, importance={Q: np.ones(7, np.float32)})
    assert row_of(found, Q)["verdict"] == "not judged" and "has shape (7,)" in row_of(found, Q)["note"]
    assert row_of(found, OUT)["verdict"] == "not dominated"


def test_importance_of_experts_is_stacked_as_they_are(tmp_path, rng):
    names = [f"model.layers.0.mlp.experts.{i}.up_proj.weight" for i in range(3)]
    parts = {name: rng.standard_normal((16, 64)).astype(np.float32) for name in names}
    weights = {name: rng.uniform(0, 3, 64).astype(np.float32) for name in names}
    save_file(parts, tmp_path / "model.safetensors")
    stack = np.stack(list(parts.values()))
    path = write_gguf(tmp_path / "model.gguf", {"blk.0.ffn_up_exps.weight": (stack, "Q4_0")}, "qwen3moe")
    row = row_of(ql.audit(path, tmp_path / "model.safetensors", importance=weights), "blk.0.ffn_up_exps.weight")
    root = np.sqrt(np.stack(list(weights.values()), dtype=np.float64))[:, None]
    decoded = gguf.dequantize(gguf.quantize(stack, KINDS["Q4_0"]), KINDS["Q4_0"])
    assert row["weighted_sqnr_db"] == pytest.approx(sqnr(stack * root, decoded * root), rel=1e-9)


def test_importance_weighs_inputs(layer, tmp_path, rng):
    folder, tensors = layer
    exported(folder, tmp_path / "out", ["*_proj.weight=int4-sym-g32-mse"], "compressed-tensors")
    w = rng.uniform(0, 5, 128).astype(np.float32)
    found = ql.audit(tmp_path / "out", folder, importance={Q: w}, against=())
    with ql.open_checkpoint(tmp_path / "out") as file:
        y = Stored(file).values(Q)
    expected = sqnr(tensors[Q] * np.sqrt(np.float64(w)), y * np.sqrt(np.float64(w)))
    assert row_of(found, Q)["weighted_sqnr_db"] == pytest.approx(expected, rel=1e-6)
    assert math.isnan(row_of(found, OUT)["weighted_sqnr_db"])
