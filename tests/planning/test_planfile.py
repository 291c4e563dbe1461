"""Plans in files: complete, the same bytes for the same plan, and a stranger's until every field is checked."""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quantlab as ql
from quantlab.errors import CheckpointError, ConfigError, LimitError, QuantlabError
from quantlab.planning import planfile
from quantlab.planning.exported import assignment_of
from quantlab.planning.globs import rules_for
from quantlab.planning.planfile import check_model
from quantlab.shipping.recipe import assign

from .models import LLAMA, saved


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a model, and a plan of it."""
    path = saved(tmp_path_factory.mktemp("plan") / "model", LLAMA, "float32", model_type="llama")
    with ql.open_checkpoint(path) as checkpoint:
        table = ql.sweep(checkpoint, ql.TARGETS["vllm"].menu(checkpoint))
        yield checkpoint, ql.plan(table, checkpoint, target="vllm", budget="60%", pins=["*layers.0*down*=copy"])


def test_what_is_saved_is_read_back_and_the_same_plan_gives_the_same_bytes(made, tmp_path):
    _, plan = made
    path = plan.save(tmp_path / "plan.json")
    again = ql.load_plan(path)
    assert again == plan
    assert list(again.choices) == list(plan.choices)
    assert again.save(tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_a_choice_that_changes_changes_a_line_of_the_choices(made):
    _, plan = made
    name = list(plan.choices)[3]
    other = replace(plan, choices={**plan.choices, name: "int8-sym-tensor-minmax"})
    lines = [text.splitlines() for text in (plan.text, other.text)]
    changed = [pair for pair in zip(*lines, strict=True) if pair[0] != pair[1]]
    assert len(changed) == 1
    assert json.dumps(name) in changed[0][0]


def test_a_plan_without_the_digest_of_its_model_is_not_saved(made, tmp_path):
    _, plan = made
    with pytest.raises(ConfigError, match="signed"):
        replace(plan, source={**plan.source, "sha256": ""}).save(tmp_path / "plan.json")
    assert not (tmp_path / "plan.json").exists()


def places(value, path=()):
    """The path of everything in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


STRANGE = [
    None, True, -1, 0, 1.5, math.inf, 2**80, "", "copy", "x" * 20_000, "\ud800", "int4-sym-g0-mse", [], {}, [[]],
    {"a": None}, "../../etc/passwd", "w4_g32", "9" * 10,
]  # fmt: skip


@settings(max_examples=300)
@given(st.data())
def test_a_plan_that_somebody_changed_is_refused_in_one_sentence_or_is_a_plan(made, tmp_path_factory, data):
    """Any value anywhere in the place of another, or missing, or one more: never anything but a QuantlabError."""
    checkpoint, plan = made
    content = json.loads(plan.text)
    path = data.draw(st.sampled_from([place for place in places(content) if place]))
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    what = data.draw(st.sampled_from(["replaced", "removed", "added"]))
    if what == "replaced":
        holder[path[-1]] = data.draw(st.sampled_from(STRANGE))
    elif what == "removed":
        del holder[path[-1]]
    elif isinstance(holder, dict):
        holder[data.draw(st.sampled_from(["", "more", "lm_head.weight"]))] = data.draw(st.sampled_from(STRANGE))
    else:
        holder.append(data.draw(st.sampled_from(STRANGE)))
    file = tmp_path_factory.mktemp("strange") / "plan.json"
    file.write_text(json.dumps(content))
    try:
        found = ql.load_plan(file)
        assignment_of(found, checkpoint)
    except QuantlabError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000


@pytest.mark.parametrize(
    "data",
    [
        b"", b"null", b"[]", b"{}", b"\xff", b'{"format": "quantlab-plan"}',
        b'{"format": "quantlab-plan", "version": 2}',
        b'{"format": "quantlab-plan", "version": true}', b"[" * 200_000, b'{"a": NaN}', b'{"a": 1, "a": 1}',
        b'{"format": "quantlab-plan", "version": 1, "choices": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda data: str(data[:30]),
)  # fmt: skip
def test_what_is_no_plan_is_refused(data, tmp_path):
    (tmp_path / "plan.json").write_bytes(data)
    with pytest.raises(CheckpointError):
        ql.load_plan(tmp_path / "plan.json")


def test_plans_have_an_end(made, tmp_path, monkeypatch):
    monkeypatch.setattr(planfile, "MAX_FILE", 1000)
    path = made[1].save(tmp_path / "plan.json")
    with pytest.raises(LimitError):
        ql.load_plan(path)


def test_a_plan_contradicting_itself_is_refused(made, tmp_path):
    content = json.loads(made[1].text)
    names = list(content["choices"])

    def refused(change, words):
        changed = copy.deepcopy(content)
        change(changed)
        (tmp_path / "plan.json").write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match=words):
            ql.load_plan(tmp_path / "plan.json")

    refused(lambda c: c["choices"].update({names[0]: "int8-sym-ch0-mse"}), "two choices")
    refused(lambda c: c["choices"].update({"other": "copy"}), "units are not of the tensors")
    refused(lambda c: c["kept"].append(names[0]), "units are not of the tensors")
    refused(lambda c: c["kept"].append("other"), "all tensors")
    refused(lambda c: c.update(file_format="gguf"), "does not load")
    refused(lambda c: c["units"].pop(), "units are not of the tensors")


# -- the model that a plan is for


def test_a_plan_of_another_model_or_version_is_refused_before_a_tensor_is_read(made, tmp_path, monkeypatch):
    _, plan = made
    other = {**LLAMA, "model.layers.2.self_attn.q_proj.weight": (64, 64)}
    fewer = {name: shape for name, shape in LLAMA.items() if "layers.1" not in name}
    monkeypatch.setattr("quantlab.formats.checkpoint.Checkpoint.load", lambda *a: pytest.fail("a tensor was read"))
    for i, (shapes, words) in enumerate([(other, "also has"), (fewer, "has no tensor")]):
        path = saved(tmp_path / f"{i}", shapes)
        with ql.open_checkpoint(path) as checkpoint, pytest.raises(CheckpointError, match=words):
            check_model(plan, checkpoint)
    # The same names and shapes, other bytes.
    path = saved(tmp_path / "later", LLAMA)
    with ql.open_checkpoint(path) as checkpoint, pytest.raises(CheckpointError, match="another version"):
        assignment_of(plan, checkpoint)


def test_a_plan_whose_file_would_have_another_size_is_refused(made):
    checkpoint, plan = made
    with pytest.raises(CheckpointError, match="make the plan again"):
        assignment_of(replace(plan, nbytes=plan.nbytes + 1), checkpoint)


def test_a_plan_that_only_copies_has_nothing_to_write(made):
    checkpoint, plan = made
    units = tuple(replace(unit, choice="copy") for unit in plan.units)
    with pytest.raises(QuantlabError, match="nothing to quantize"):
        assignment_of(replace(plan, choices=dict.fromkeys(plan.choices, "copy"), units=units), checkpoint)


# -- rules

PARTS = st.sampled_from(["layers", "0", "1", "10", "q_proj", "k*", "a[0]", "[!b]", "weight", "x?", "experts", "=", "é"])
NAMES = st.lists(PARTS, min_size=1, max_size=5).map(".".join)
CHOICES = st.sampled_from(["int4-sym-g32-mse", "int8-sym-ch0-mse", "fp16", "copy"])


@given(st.dictionaries(NAMES, CHOICES, min_size=1, max_size=14), st.lists(NAMES, max_size=6))
def test_rules_give_exactly_the_choices_and_keep_the_rest(tmp_path_factory, choices, kept):
    kept = [name for name in dict.fromkeys(kept) if name not in choices]
    rules = rules_for(choices, kept)
    path = tmp_path_factory.mktemp("rules") / "model.npz"
    members = dict.fromkeys([*choices, *kept])
    checkpoint = Named(members)
    if set(choices.values()) == {"copy"}:
        assert [str(rule) for rule in rules] == ["*=copy"]
        return
    assert not path.exists()
    found = assign(checkpoint, rules)
    assert {item.spec.name: str(item.config) for item in found.taken} == {
        name: slug for name, slug in choices.items() if slug != "copy"
    }
    assert {item.spec.name for item in found.copied} == {
        name for name in members if choices.get(name, "copy") == "copy"
    }
    assert not found.left
    assert [str(rule.parse(str(rule))) for rule in rules] == [str(rule) for rule in rules]


class Named:
    """Names, and matrices of one shape behind them."""

    def __init__(self, names):
        self.names = list(names)

    def spec(self, name):
        return ql.formats.TensorSpec(name, (64, 64), "float32", 4 * 64 * 64)

    def __str__(self):
        return "a model"


def test_what_layers_have_in_common_is_one_rule():
    names = {f"model.layers.{i}.{part}.weight": part for i in range(30) for part in ("attn.q", "attn.k", "mlp.up")}
    slugs = {"attn.q": "int4-sym-g32-mse", "attn.k": "int4-sym-g32-mse", "mlp.up": "int8-sym-ch0-mse"}
    choices = {name: slugs[part] for name, part in names.items()}
    choices["model.layers.7.mlp.up.weight"] = "copy"
    rules = rules_for(choices, [f"model.layers.{i}.norm.weight" for i in range(30)])
    assert len(rules) <= 1 + 2 + 1 + 29
    exact = {name: slug for name, slug in choices.items() if "mlp" not in name}
    assert len(rules_for(exact, [])) <= 3


def test_a_plan_is_exported_in_its_own_bytes(made, tmp_path):
    checkpoint, plan = made
    from quantlab.shipping.shipping import ship

    shipment = ship(checkpoint, assignment_of(plan, checkpoint), tmp_path / "out", plan.format)
    assert shipment.file_nbytes == plan.nbytes
    assert shipment.equal.all()
    copied = [name for name, choice in plan.choices.items() if choice == "copy"]
    with ql.open_checkpoint(tmp_path / "out") as out:
        assert "model.layers.0.mlp.down_proj.weight" in copied
        for name in (*copied, *plan.kept):
            np.testing.assert_array_equal(out.raw(name), checkpoint.raw(name))
