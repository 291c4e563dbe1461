"""App, command line and library start from the same tensors, and say the same bits of them."""

import io

import pandas as pd
import pytest

import quantlab as ql
from quantlab.cli import main
from quantlab.samples import sample_path
from tests.pages.app import job_of, page, said
from tests.pages.sweeping import run_button
from tests.sweeping.models import WEIGHTS, saved

SLUG = "int8-aff-ch0-mse"


@pytest.fixture(params=["sample", *(kind for kind, names in WEIGHTS.items() if names)])
def model(request, tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("QUANTLAB_ROOTS", f"{tmp_path}:{sample_path().parent}")
    return str(sample_path() if request.param == "sample" else saved(request.param, tmp_path))


def test_sweep_and_export_take_the_same_tensors_at_every_door(model, capsys):
    # In a model that multiplies by [in, out], Export offers channels along each tensor's own axis in place of ch0.
    granularity = "g8" if model.endswith(".onnx") else "ch0"
    slug = f"int8-aff-{granularity}-mse"
    grid = {"dtypes": ["int8"], "mappings": ["affine"], "granularities": [granularity], "calibrations": ["mse"]}
    grid["popular"] = "false"
    at = page("sweep", file=model, **grid)
    run_button(at).click().run()
    assert job_of(at).finished.wait(60)
    in_app = job_of(at).result.frame
    exported = page("export", file=model, config=slug).dataframe[0].value

    capsys.readouterr()
    assert main(["sweep", model, "--config", slug, "--csv", "-"]) == 0
    on_command_line = pd.read_csv(io.StringIO(capsys.readouterr().out))
    with ql.open_checkpoint(model) as checkpoint:
        in_library = ql.sweep(checkpoint, [ql.QuantConfig.parse(slug)])

    taken = in_library["tensor"].tolist()
    assert taken and taken == in_app["tensor"].tolist() == on_command_line["tensor"].tolist()
    assert taken == exported["Tensor"].tolist()
    assert in_app["nbytes"].tolist() == on_command_line["nbytes"].tolist() == exported["Packed"].tolist()


@pytest.mark.parametrize("kind", [kind for kind, names in WEIGHTS.items() if not names])
def test_a_file_without_weights_says_why_at_every_door(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    path = saved(kind, tmp_path)
    assert main(["sweep", str(path), "--config", SLUG]) == 1
    sentence = capsys.readouterr().err.removeprefix("quantlab: ").strip()
    assert "has no weights that are taken unasked" in sentence
    for name in ("sweep", "export"):
        at = page(name, file=str(path), config=SLUG)
        assert not at.exception and sentence[1:] in said(at)
    assert main(["sweep", str(path), "--config", "int8-sym-tensor-minmax", "--tensors", "*"]) == 0
