"""quantlab recipe."""

import numpy as np
import pytest
import safetensors.numpy

import quantlab as ql


@pytest.fixture
def model(tmp_path, rng):
    """A decoder's two blocks, as Hugging Face names them."""
    layers = [f"model.layers.{i}.mlp.{part}_proj.weight" for i in range(2) for part in ("gate", "up", "down")]
    arrays = {name: rng.standard_normal((64, 64), np.float32) for name in layers}
    arrays["model.embed_tokens.weight"] = np.zeros((8, 64), np.float32)
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def plan(model, tmp_path):
    """plan(slugs, **options) -> a file with a plan of these configurations."""

    def plan(slugs, **options):
        with ql.open_checkpoint(model) as source:
            table = ql.sweep(source, [ql.QuantConfig.parse(slug) for slug in slugs])
            return ql.plan(table, source, **({"budget": "60%"} | options)).save(tmp_path / "plan.json")

    return plan


def test_the_text_goes_to_stdout_and_what_is_to_be_known_of_it_to_stderr(run, plan):
    made = run("recipe", plan(["int4-sym-g32-mse", "int8-sym-ch0-minmax"]), "--for", "llm-compressor")
    assert made.code == 0 and made.out.startswith("# Made by quantlab") and "QuantizationModifier" in made.out
    assert "its figures do not" in made.err and "To run it as recipe.yaml: python" in made.err


def test_a_file_is_written_and_its_name_stands_for_the_usual_one(run, plan, tmp_path):
    made = run("recipe", plan(["int4-sym-g32-mse"]), "--for", "torchao", "-o", tmp_path / "mine.py")
    assert (made.code, made.out) == (0, "") and "FqnToConfig" in (tmp_path / "mine.py").read_text()
    assert "in place of torchao_plan.py" in made.err


def test_with_its_model_names_and_types_are_looked_up(run, plan, model, tmp_path):
    path = plan(["q4_0", "q8_0"], target="llama.cpp", format="gguf")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    made = run("recipe", path, "--for", "llama-quantize", "--source", model)
    assert made.code == 0 and r"\.ffn_up\.weight$=q" in made.out.replace("(ffn_gate|ffn_up)", "ffn_up")
    assert "most of GGUF's architectures" not in made.err and "larger than its own type" not in made.err


def test_what_a_tool_cannot_express_is_one_sentence_and_nothing_is_written(run, plan, tmp_path):
    made = run("recipe", plan(["int4-sym-g32-mse"]), "--for", "mlx-lm", "-o", tmp_path / "out.py")
    assert (made.code, made.out) == (1, "") and "the nearest that it has is int4-uni-g32-mse" in made.err
    assert made.err.count("\n") == 1 and not (tmp_path / "out.py").exists()


def test_another_model_is_refused(run, plan, tmp_path):
    path = plan(["int4-sym-g32-mse"])
    np.savez(tmp_path / "other.npz", a=np.zeros((4, 4), np.float32))
    made = run("recipe", path, "--for", "torchao", "--source", tmp_path / "other.npz")
    assert made.code == 1 and "give that model" in made.err


def test_an_unknown_tool_is_wrong_usage(run, plan):
    assert run("recipe", plan(["int4-sym-g32-mse"]), "--for", "nothing").code == 2
    assert run("recipe", "plan.json").code == 2
