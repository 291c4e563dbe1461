"""What a plan costs: the error of every tensor, and how much each of them counts.

The damage of a plan is the sum over tensors of weight x error. What an error is, `OBJECTIVES` says; weights are, in
this order of preference, measured ones from a file, a prior for the role of a layer, or all equal.

`PRIOR` is a table that was published for the first LLaMA (https://github.com/ggml-org/llama.cpp/discussions/1256): how
much of the perplexity that is lost to Q2_4 comes back by leaving one role in float16, relative to each other. Two small
models (an LLM of 270 M, a sentence encoder of 23 M) were measured since, on texts that were used for nothing else: with
it a plan's true damage was below that of the uniform configuration of the same bytes at 9 of 10 budgets and equal at
one; without it, at 8 of 10. Where the roles of a model differ from LLaMA's, measured weights are far better.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from ..errors import ConfigError, LimitError, QuantlabError
from ..formats.checkpoint import TensorSpec
from ..formats.input.files import MAX_NAME, MAX_TENSORS, InputFile
from ..formats.safetensors.model import SUFFIX
from ..wording import counted, shown
from .roles import Role, role_of

MAX_FILE = 64 << 20  # bytes of a file of weights
MAX_WEIGHT = 1e30  # sums of as many as a file may have stay finite

MEASURED, BY_ROLE, EQUAL = "measured", "role prior", "equal"

PRIOR = {"q": 0.12, "k": 0.12, "v": 0.8, "o": 0.4, "gate": 0.4, "up": 0.57, "down": 1.1}
LAYERS = {*PRIOR, "qkv", "gate_up"}
EMBEDDING = 0.05  # of an untied embedding of tokens, from the same table: "less than"


@dataclass(frozen=True)
class Figures:
    """What a table says of tensors under configurations, float64 [tensors, configurations] each; NaN for nothing.

    relative : sum e^2 / sum x^2. rows : its mean over output channels. squared : the mean of e^2. weighted : relative,
        with every input's importance. channels, sizes : numbers of output channels and of values, float64 [tensors, 1].
    """

    relative: np.ndarray
    rows: np.ndarray
    squared: np.ndarray
    weighted: np.ndarray
    channels: np.ndarray
    sizes: np.ndarray

    def basis(self, importance: bool) -> np.ndarray:
        """The relative error: that with importance where asked for and known."""
        return np.where(np.isfinite(self.weighted), self.weighted, self.relative) if importance else self.relative


@dataclass(frozen=True)
class Objective:
    """What is minimised.

    Attributes
    ----------
    name, label, help : of the command line, of a form, and a sentence.
    errors : (figures, with importance?) -> float64 [tensors, configurations].
    column : of the table, which the errors are made of.
    largest : whether the damage of a plan is the largest error of any tensor in place of the sum; no weights then.
    """

    name: str
    label: str
    help: str
    column: str
    errors: Callable[[Figures, bool], np.ndarray]
    largest: bool = False

    @property
    def weighted(self) -> bool:
        """Whether an importance changes its errors."""
        return self.errors == Figures.basis


OBJECTIVES: dict[str, Objective] = {
    "relative": Objective(
        "relative",
        "Relative error",
        "Each tensor's squared error over its own power, so that no tensor hides another.",
        "sqnr_db",
        Figures.basis,
    ),
    "rows": Objective(
        "rows",
        "Relative error per output",
        "The relative squared error of every output channel, summed: no channel hides another.",
        "channels_sqnr_db",
        lambda figures, importance: figures.rows * figures.channels,
    ),
    "absolute": Objective(
        "absolute",
        "Squared error",
        "The sum of all squared errors, in which tensors of large values count most.",
        "mse",
        lambda figures, importance: figures.squared * figures.sizes,
    ),
    "worst": Objective(
        "worst",
        "Worst tensor",
        "The largest relative squared error of any tensor, then the sum of them all.",
        "sqnr_db",
        Figures.basis,
        largest=True,
    ),
}


def prior_of(specs: Sequence[TensorSpec], tied: Iterable[str] = ()) -> np.ndarray:
    """How much the error of each tensor counts by its role: float64 [tensors].

    The experts of a layer together count as one tensor does. What has no known role, a head, and an embedding that is a
    head as well (`tied`) get the median of those that have one: there is no evidence either way.
    """
    roles, shared = [role_of(spec.name) for spec in specs], set(tied)
    found = [_known(role, spec, spec.name in shared) for role, spec in zip(roles, specs, strict=True)]
    layers = [weight for weight, role in zip(found, roles, strict=True) if weight is not None and role.base in LAYERS]
    median = float(np.median(layers)) if layers else 1.0
    experts = Counter((role.kind, role.block) for role in roles if role.expert is not None)
    shares = [experts[role.kind, role.block] if role.expert is not None else 1 for role in roles]
    return np.array([(median if w is None else w) / n for w, n in zip(found, shares, strict=True)], np.float64)


def _known(role: Role, spec: TensorSpec, tied: bool) -> float | None:
    """The weight of a role; None for one that the table says nothing of."""
    if role.base == "qkv":
        return _fused(spec)
    if role.base == "gate_up":
        return (PRIOR["gate"] + PRIOR["up"]) / 2
    if role.base == "embedding":
        return None if tied else EMBEDDING
    return PRIOR.get(role.base)


def _fused(spec: TensorSpec) -> float:
    """Of q, k and v in one: their mean by numbers of parameters; q is taken for square. A guess that nobody tested."""
    outputs, inputs = max(spec.shape[:2], default=1), min(spec.shape[:2], default=1)
    q = inputs / outputs if outputs > inputs else 1 / 3
    others = (PRIOR["k"] + PRIOR["v"]) / 2
    return PRIOR["q"] * q + others * (1 - q)


@dataclass(frozen=True)
class Weighting:
    """How much each tensor's error counts: `values`, float64 [tensors]; in a `word`; and what is to be said of it."""

    values: np.ndarray
    word: str
    notes: tuple[str, ...] = ()


def weighting(
    specs: Sequence[TensorSpec], *, weights: Mapping[str, float] | None, prior: bool, tied: Iterable[str] = ()
) -> Weighting:
    """How much the error of each tensor counts: as `weights` say, else by the prior, else alike.

    Raises ConfigError for weights that are no non-negative numbers, or of which none is of a tensor here.
    """
    if weights is not None:
        return _measured(specs, checked_weights(weights))
    return Weighting(prior_of(specs, tied), BY_ROLE) if prior else Weighting(np.ones(len(specs)), EQUAL)


def _measured(specs: Sequence[TensorSpec], weights: Mapping[str, float]) -> Weighting:
    by_module = {name.removesuffix(SUFFIX): value for name, value in weights.items()}
    found = [weights.get(spec.name, by_module.get(spec.name.removesuffix(SUFFIX))) for spec in specs]
    known = [weight for weight in found if weight is not None]
    if not known:
        raise ConfigError(
            f"of {counted(len(weights), 'weight')} given, none is of a tensor here: they name {_first(weights)}, and "
            f"the model has {_first([spec.name for spec in specs])}: the names must be the model's"
        )
    if not any(known):
        raise ConfigError("every tensor has the weight 0, so that nothing counts: give some a larger one")
    names = {spec.name.removesuffix(SUFFIX) for spec in specs}
    unknown = [name for name in weights if name.removesuffix(SUFFIX) not in names]
    without = [spec.name for spec, weight in zip(specs, found, strict=True) if weight is None]
    notes = []
    if unknown:
        notes.append(
            f"{counted(len(unknown), 'weight')} of the file match no tensor that is planned: {_first(unknown)}"
        )
    median = float(np.median(known))
    if without:
        notes.append(
            f"{counted(len(without), 'tensor')} have no weight and get the median, {median:g}: {_first(without)}"
        )
    values = np.array([median if weight is None else weight for weight in found], np.float64)
    return Weighting(values, MEASURED, tuple(notes))


def _first(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(map(shown, listed[:2])) + (" ..." if len(listed) > 2 else "")


def checked_weights(weights: Mapping[str, float]) -> dict[str, float]:
    """The same with plain floats. ConfigError unless all are numbers from 0 to `MAX_WEIGHT`, NaN being none."""
    if not isinstance(weights, Mapping) or not weights:
        raise ConfigError(f"the weights are {shown(weights)}: give a mapping of tensors' names to numbers")
    return {name: _number(name, value) for name, value in weights.items()}


def _number(name: object, value: object) -> float:
    if not isinstance(name, str) or len(name) > MAX_NAME:
        raise ConfigError(f"a weight is of {shown(name)}: give the name of a tensor")
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= MAX_WEIGHT:
        raise ConfigError(f"the weight of {shown(name)} is {shown(value)}: give a number from 0 to {MAX_WEIGHT:g}")
    return number


def read_weights(path: str | os.PathLike[str]) -> dict[str, float]:
    """How much each tensor's error counts, from a file: CSV of `tensor, weight`, or JSON.

    JSON is an object of names and numbers, a list of objects with `tensor` and `weight`, or mlx-lm's list of
    `[name, score]`. Names may leave out `.weight`.

    Raises
    ------
    CheckpointError : the file cannot be read. LimitError : it is too large.
    ConfigError : it is neither of these, or a weight is no number from 0 up; the sentence names it.
    """
    with closing(InputFile(path)) as file:
        if file.size > MAX_FILE:
            raise LimitError(f"{file} has {file.size:,} bytes, and quantlab reads weights of up to {MAX_FILE:,}")
        data, what = bytes(file.read(0, file.size)), str(file)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} is no text: give CSV of tensor, weight, or JSON") from error
    pairs = _from_json(text, what) if text.lstrip()[:1] in ("{", "[") else _from_csv(text, what)
    found: dict[str, float] = {}
    for name, value in pairs:
        if name in found:
            raise ConfigError(f"{what} has two weights of {shown(name)}: leave one")
        found[name] = _said(name, value, what)
    if not found:
        raise ConfigError(f"{what} has no weights: give lines of tensor, weight")
    return found


def _said(name: object, value: object, what: str) -> float:
    try:
        return _number(name, value)
    except QuantlabError as error:
        raise ConfigError(f"{what}: {error}") from error


def _from_json(text: str, what: str) -> list[tuple[Any, Any]]:
    try:
        content = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{what} is not valid JSON: {str(error)[:100]}") from error
    entries = list(content.items()) if isinstance(content, dict) else [_pair(entry) for entry in content]
    if len(entries) > MAX_TENSORS or None in entries:
        raise ConfigError(
            f"{what} is no list of at most {MAX_TENSORS:,} weights: write {{NAME: WEIGHT}} or [[NAME, WEIGHT]]"
        )
    return [entry for entry in entries if entry is not None]


def _pair(entry: Any) -> tuple[Any, Any] | None:
    """Name and weight of `[name, weight]` or `{"tensor": name, "weight": weight}`; None for anything else."""
    if isinstance(entry, dict) and {"tensor", "weight"} <= entry.keys():
        return entry["tensor"], entry["weight"]
    return (entry[0], entry[1]) if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key comes twice")
    return dict(pairs)


def _refuse(token: str) -> NoReturn:
    raise ValueError(f"{token} is not a number")


def _from_csv(text: str, what: str) -> list[tuple[str, float]]:
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error as error:
        raise ConfigError(f"{what} is no CSV: {error}") from error
    if rows and len(rows[0]) == 2 and not _is_number(rows[0][1]):
        del rows[0]  # the header
    if len(rows) > MAX_TENSORS:
        raise LimitError(f"{what} has more than {MAX_TENSORS:,} lines")
    for at, row in enumerate(rows):
        if len(row) != 2 or not _is_number(row[1]):
            raise ConfigError(
                f"{what} has {shown(','.join(row))} as weight {at + 1}: write tensor, weight in each line"
            )
    return [(name.strip(), float(weight)) for name, weight in rows]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
