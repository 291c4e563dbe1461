"""The programs that plans are made for: what each of them loads, holds as one, and never has quantized.

What a file can hold its format's `Layout` knows, and nothing of that is written here again: a target adds what the
program that loads the file asks beyond it, and a menu of configurations that are worth measuring for it.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from weakref import WeakKeyDictionary

from ..core.config import QuantConfig, grid
from ..core.dtypes import MAPPINGS
from ..core.granularity import PerChannel, PerGroup, PerTensor
from ..formats import FORMATS
from ..formats.checkpoint import Checkpoint, TensorSpec
from ..formats.onnx.write import FLOAT_TYPES
from ..formats.safetensors.beside import own_config
from ..formats.safetensors.model import SCALES, dtype_of, experts_of
from ..shipping.recipe import Item
from ..shipping.rehearsal import bound, unquantized
from ..sweeping.refusals import refusal
from ..sweeping.weights import can_be_taken, channel_axes, is_weight
from . import ties
from .roles import EXPERT, role_of
from .units import Unit

# quantlab's own formats, and plain values: they hold whatever a plan says, but for .npz copies of bfloat16.
OWN = ("safetensors", "npz", "dense")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A program that a plan is made for.

    Attributes
    ----------
    name, label : of the command line and of a form.
    format, formats : of `FORMATS`: the one that is written by default, and all that can hold its plans.
    wishes : (checkpoint) -> configurations that are worth measuring for it, before any is left out that cannot be.
    keeps : (tensor) -> why the program has it as it is whatever is asked; "" if it may be quantized.
    must : (tensor) -> why it has to be quantized if anything is; "" if it may be copied.
    habit : (tensor) -> why it is kept unless it is asked for by a pin; "" if it is quantized as others are.
    demands : (tensor, configuration) -> what the program asks beyond what its format can hold; "" if that is met.
    tying : what it holds as one.
    lacks : (checkpoint) -> what a file made of it lacks to be a model for the program, in a sentence; "" if nothing.
    """

    name: str
    label: str
    format: str
    formats: tuple[str, ...]
    wishes: Callable[[Checkpoint], list[QuantConfig]]
    keeps: Callable[[TensorSpec], str] = lambda spec: ""
    must: Callable[[TensorSpec], str] = lambda spec: ""
    habit: Callable[[TensorSpec], str] = lambda spec: ""
    demands: Callable[[TensorSpec, QuantConfig], str] = lambda spec, config: ""
    tying: ties.Tying = ties.alone
    lacks: Callable[[Checkpoint], str] = lambda checkpoint: ""

    def menu(self, checkpoint: Checkpoint) -> list[QuantConfig]:
        """Configurations worth sweeping for it: it can load at least one weight so, and its file holds scales so."""
        weights = [spec for spec in map(checkpoint.spec, checkpoint.names) if is_weight(spec)]
        shapes = {(spec.shape, spec.dtype, spec.channel_axis): spec for spec in weights}.values()
        wishes = self.wishes(checkpoint)
        return [c for c in wishes if any(not self.refuses(spec, c, checkpoint) for spec in (*shapes, *weights))]

    def never(self, spec: TensorSpec, checkpoint: Checkpoint) -> str:
        """Why it never quantizes a tensor, in a sentence; "" if it may."""
        if not can_be_taken(spec):
            return f"it is {spec.dtype}, and only floating-point values are quantized" if spec.size else "it is empty"
        return self.keeps(spec)

    def refuses(self, spec: TensorSpec, config: QuantConfig, checkpoint: Checkpoint) -> str:
        """Why it cannot load a tensor quantized so, in a sentence; "" if it can. The export would refuse the same."""
        held = _held(checkpoint, self.format)
        if why := (
            self.never(spec, checkpoint)
            or refusal(spec.shape, config)
            or FORMATS[self.format].why_not(spec.shape, config)
            or self.demands(spec, config)
            or held.unfit(checkpoint, config).get(spec.name)
        ):
            return why
        stored = held.stored(config, spec.dtype)
        scales = f"its file holds scales as {stored.scale_dtype}, in which this model runs: measure {stored} instead"
        return "" if stored == config else scales

    def notes(self, checkpoint: Checkpoint) -> list[str]:
        """What is to be known before a plan of a checkpoint is made for it, in sentences."""
        layout = FORMATS[self.format].layout
        return [note for note in (self.lacks(checkpoint), layout.limits(checkpoint) if layout else "") if note]

    def ties(self, checkpoint: Checkpoint, names: Sequence[str], patterns: Iterable[str] = ()) -> list[Unit]:
        """All names, in units, in their order; globs tie what they take in as well."""
        return ties.units_of(checkpoint, names, self.tying, patterns)


# -- what a format says of a source


class _Held:
    """What a format's layout says of a source's tensors. It is asked once: to ask reads an ONNX model's graph."""

    def __init__(self, checkpoint: Checkpoint, format: str) -> None:
        self._layout = bound(checkpoint, format)
        self._unfit: dict[QuantConfig, dict[str, str]] = {}

    def unfit(self, checkpoint: Checkpoint, config: QuantConfig) -> dict[str, str]:
        """The tensors that the format's program cannot load so out of this source: name -> why."""
        if config not in self._unfit:
            specs = [spec for spec in map(checkpoint.spec, checkpoint.names) if can_be_taken(spec)]
            tensors = [unquantized(Item(spec, config)) for spec in specs if not refusal(spec.shape, config)]
            self._unfit[config] = dict(self._layout.unfit(tensors, checkpoint)) if self._layout else {}
        return self._unfit[config]

    def stored(self, config: QuantConfig, dtype: str) -> QuantConfig:
        """The configuration as it is written."""
        return self._layout.stored(config, dtype) if self._layout else config


_HELD: WeakKeyDictionary[Checkpoint, dict[str, _Held]] = WeakKeyDictionary()


def _held(checkpoint: Checkpoint, format: str) -> _Held:
    known = _HELD.setdefault(checkpoint, {})
    if format not in known:
        known[format] = _Held(checkpoint, format)
    return known[format]


# -- menus


def _weights_dtype(checkpoint: Checkpoint) -> str:
    """The dtype of most weights."""
    counts = Counter(spec.dtype for spec in map(checkpoint.spec, checkpoint.names) if is_weight(spec))
    return counts.most_common(1)[0][0] if counts else "float32"


def _of_compressed_tensors(checkpoint: Checkpoint) -> list[QuantConfig]:
    groups = ["ch0", "g128", "g64", "g32"]
    wanted = grid(["int4", "int8"], ["symmetric"], groups, ["mse"])
    dtype = _weights_dtype(checkpoint)
    held = _held(checkpoint, "compressed-tensors")
    return [held.stored(config, dtype) for config in wanted]


def _of_ggml(checkpoint: Checkpoint) -> list[QuantConfig]:
    return [QuantConfig(dtype=name) for name in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "fp16", "bf16")]


def _of_mlx(checkpoint: Checkpoint) -> list[QuantConfig]:
    scales = [SCALES.get(dtype_of(checkpoint) or _weights_dtype(checkpoint), "fp32")]
    low = grid(["int2", "int3", "int4"], ["uniform"], ["g32", "g64", "g128"], ["mse"], scales)
    high = grid(["int5", "int6", "int8"], ["uniform"], ["g64"], ["mse"], scales)
    return low + high


def _of_onnx(checkpoint: Checkpoint) -> list[QuantConfig]:
    """Scales in the weights' own type, so that DequantizeLinear decodes to it without another rounding."""
    scales = ["fp16" if FLOAT_TYPES.get(_weights_dtype(checkpoint)) == FLOAT_TYPES["float16"] else "fp32"]
    channels = [PerChannel(axis) for axis in channel_axes(checkpoint)[:2]]
    bytes_ = grid(["int8"], ["symmetric", "affine"], [*channels, PerTensor()], ["mse"], scales)
    nibbles = grid(["int4"], ["symmetric", "affine"], ["g32", "g64", "g128"], ["mse"], scales)
    return bytes_ + nibbles


def _of_all(checkpoint: Checkpoint) -> list[QuantConfig]:
    channels = [PerChannel(axis) for axis in channel_axes(checkpoint)[:2]]
    found = grid(["int3", "int4"], ["symmetric"], ["g32", "g64", "g128"], ["mse"], ["fp16"])
    found += grid(["int5", "int6"], ["symmetric"], ["g64"], ["mse"], ["fp16"])
    return found + grid(["int8"], ["symmetric"], [PerGroup(64), *channels], ["mse"], ["fp16"])


# -- what the programs ask

# Of these names llama-quantize leaves all alone whatever it is told.
_GGML_KEEPS = {
    r"(?<!weight)$": "llama.cpp quantizes only what is called weight",
    r"_norm\.weight": "it is a norm",
    r"ffn_gate_inp\.weight|altup|laurel|per_layer_model_proj": "it is small, and llama.cpp keeps it as it is",
    r"^(position_embd|token_types)\.weight": "it is an embedding of positions or token types",
    r"ssm_conv1d|shortconv\.conv\.weight": "it is a short convolution, which llama.cpp keeps as it is",
    r"time_mix_(first|[wvag][012]|decay_w[12]|lerp_fused)\.weight": "it is one of RWKV's small matrices",
    r"attn_rel_b\.weight|\.rel_pos": "it is a bias of relative positions",
    r"\.position_embd|sam\.(pos_embd|neck\.|net_)|\.patch_(embd|merger)": "it is at the entrance of a vision model",
}


@lru_cache(maxsize=1 << 16)
def _ggml_keeps(name: str) -> str:
    return next((why for pattern, why in _GGML_KEEPS.items() if re.search(pattern, name)), "") or _chooses_experts(name)


def _chooses_experts(name: str) -> str:
    return "it chooses experts, which is done in plain floats" if role_of(name).kind == "router" else ""


def _keeps_head(spec: TensorSpec) -> str:
    if role_of(spec.name).kind != "head":
        return ""
    return "it is the head, which quantizers for this program keep as it is by habit: pin it to quantize it"


def _packs_experts(spec: TensorSpec) -> str:
    return "transformers loads experts beside packed layers only packed themselves" if experts_of(spec.name) else ""


def _mlx_keeps(spec: TensorSpec) -> str:
    if len(spec.shape) <= 2 or role_of(spec.name).kind.startswith(EXPERT):
        return ""
    return f"mlx-lm loads packed linear layers, embeddings and experts, and this has shape {spec.shape}"


def _no_zero_points(spec: TensorSpec, config: QuantConfig) -> str:
    if not MAPPINGS[config.mapping].has_zero_point:
        return ""
    return (
        "a plan mixes configurations, and a file of several is loaded by transformers only where all are symmetric: "
        "use the symmetric mapping, or export one affine configuration for all without a plan"
    )


def _vllm_demands(spec: TensorSpec, config: QuantConfig) -> str:
    if isinstance(config.granularity, PerTensor):
        return "vLLM loads packed weights with scales per channel or per group, not per tensor"
    return _no_zero_points(spec, config)


def _no_config(checkpoint: Checkpoint) -> str:
    return (
        ""
        if own_config(checkpoint)
        else f"no config.json is beside {checkpoint}: what is written of it is no model yet"
    )


def _no_gguf(checkpoint: Checkpoint) -> str:
    if checkpoint.format == "gguf":
        return ""
    return (
        f"{checkpoint} is no GGUF file, and llama.cpp runs none that is written of its tensors alone: convert it with "
        f"convert_hf_to_gguf.py first, or use the plan as a recipe"
    )


def _no_onnx(checkpoint: Checkpoint) -> str:
    if checkpoint.format == "onnx":
        return ""
    return f"{checkpoint} is no ONNX model: a file of its tensors gives their values, and runs nothing else"


TARGETS: dict[str, Target] = {
    "vllm": Target(
        name="vllm",
        label="vLLM",
        format="compressed-tensors",
        formats=("compressed-tensors", *OWN),
        wishes=_of_compressed_tensors,
        keeps=lambda spec: _chooses_experts(spec.name),
        habit=_keeps_head,
        demands=_vllm_demands,
        tying=ties.fused,
        lacks=_no_config,
    ),
    "transformers": Target(
        name="transformers",
        label="transformers",
        format="compressed-tensors",
        formats=("compressed-tensors", *OWN),
        wishes=_of_compressed_tensors,
        keeps=lambda spec: _chooses_experts(spec.name),
        habit=_keeps_head,
        demands=_no_zero_points,
        must=_packs_experts,
        tying=ties.experts_as_one,
        lacks=_no_config,
    ),
    "llama.cpp": Target(
        name="llama.cpp",
        label="llama.cpp (GGUF)",
        format="gguf",
        formats=("gguf", *OWN),
        wishes=_of_ggml,
        keeps=lambda spec: _ggml_keeps(spec.name),
        tying=ties.stacked_by("llama.cpp"),
        lacks=_no_gguf,
    ),
    "mlx": Target(
        name="mlx",
        label="MLX (mlx-lm)",
        format="mlx",
        formats=("mlx", *OWN),
        wishes=_of_mlx,
        keeps=_mlx_keeps,
        tying=ties.stacked_by("mlx-lm"),
        lacks=_no_config,
    ),
    "onnxruntime": Target(
        name="onnxruntime",
        label="ONNX Runtime",
        format="onnx",
        formats=("onnx", *OWN),
        wishes=_of_onnx,
        lacks=_no_onnx,
    ),
    "any": Target(
        name="any",
        label="any program: quantlab's own file",
        format="safetensors",
        formats=OWN,
        wishes=_of_all,
    ),
}
