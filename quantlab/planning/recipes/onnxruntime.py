"""ONNX Runtime's quantizers: a script that passes over the graph once for every scheme.

Weights in blocks become MatMulNBits, int4 with a scale per channel becomes DequantizeLinear, int8 with a scale per
channel or tensor MatMulInteger. `nodes_to_include` does not restrict anything, so all other nodes are excluded; nodes
may lack names, and what a pass cannot quantize it skips with a word in its log: the script looks afterwards.

MatMulNBits cuts along the inputs of a matrix. So a plan made for modules' weights, [out, in], has groups for it, and
is told by the names that PyTorch's exporter gives nodes: /model/layers.0/mlp/up_proj/MatMul. A plan of an ONNX file,
whose matrices are [in, out], cuts them along the outputs.
"""

from collections.abc import Mapping

from ...core.config import QuantConfig
from ...core.granularity import PerChannel, PerGroup
from .text import filled, python_dict
from .tool import Schemes, Tool, Wanted, is_symmetric, modules

LABEL = "ONNX Runtime"
BLOCKS = (16, 32, 64, 128, 256)


SCRIPT = '''
import os
import sys
import tempfile

import onnx
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

<<INTEGERS>>
<<NBITS>>
<<PLAN>>


def named(model):
    """The MatMul nodes by their names; those that have none get one."""
    nodes = [node for node in model.graph.node if node.op_type == "MatMul"]
    for i, node in enumerate(nodes):
        node.name = node.name or f"plan/MatMul_{i}"
    return {node.name: node for node in nodes}


def planned(model):
    """Node -> what the plan gives it, found by its own name or by that of the matrix it multiplies by."""
    found = {}
    for name, node in named(model).items():
        key = name if name in PLAN else node.input[1]
        if key in PLAN:
            found[name] = key
    if lost := [key for key in PLAN if key not in found.values()]:
        sys.exit(f"no MatMul of this graph is for {len(lost)} matrices of the plan: {lost[0]}")
    return {name: PLAN[key] for name, key in found.items()}


def to_integers(model, nodes, arguments):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.onnx")
        quantize_dynamic(model, path, ["MatMul"], nodes_to_quantize=nodes, **arguments)
        return onnx.load(path)


def to_nbits(model, nodes, arguments):
    matrices = [named(model)[name].input[1] for name in nodes]
    if "channel_wised_quantize" in arguments and len(set(matrices)) < len(matrices):
        twice = max(matrices, key=matrices.count)
        sys.exit(f"ONNX Runtime makes no valid graph of a matrix of two nodes in int4 with channels: {twice}")
    others = [name for name in named(model) if name not in nodes]
    settings = DefaultWeightOnlyQuantConfig(**arguments)
    quantizer = MatMulNBitsQuantizer(model, nodes_to_exclude=others, algo_config=settings)
    quantizer.process()
    return quantizer.model.model


def quantize(model):
    plan = planned(model)
    for step, schemes in ((to_integers, INTEGERS), (to_nbits, NBITS)):
        for slug, arguments in schemes.items():
            model = step(model, [name for name in plan if plan[name] == slug], arguments)
    if left := [name for name in named(model) if name in plan]:
        sys.exit(f"ONNX Runtime did not quantize {len(left)} of the plan's matrices: {left[0]}")
    return model


if __name__ == "__main__":
    source, out = sys.argv[1:]
    onnx.save(quantize(onnx.load(source)), out)
'''


def only_some(config: QuantConfig) -> str:
    """Which bits go with which scales."""
    if isinstance(config.granularity, PerGroup):
        return ""
    if isinstance(config.granularity, PerChannel):
        return "only its int4 and int8 have a scale per channel" if config.codec.bits == 2 else ""
    return "" if config.codec.bits == 8 else "only its int8 has a single scale for a tensor"


def schemes(wanted: Wanted) -> Schemes:
    """2, 4 and 8 bits."""
    groups, axis = ((), 1) if wanted.is_onnx else (BLOCKS, 0)
    return Schemes((2, 4, 8), ("symmetric", "affine"), groups, True, True, axis, but=only_some)


def in_integers(config: QuantConfig) -> bool:
    """Whether a configuration becomes MatMulInteger."""
    return config.codec.bits == 8 and not isinstance(config.granularity, PerGroup)


def integer_scheme(config: QuantConfig) -> str:
    """Arguments of quantize_dynamic."""
    weights = "QuantType.QInt8" if is_symmetric(config) else "QuantType.QUInt8"
    return f'{{"per_channel": {isinstance(config.granularity, PerChannel)}, "weight_type": {weights}}}'


def nbits_scheme(config: QuantConfig) -> str:
    """Arguments of DefaultWeightOnlyQuantConfig."""
    common = f'{{"bits": {config.codec.bits}, "is_symmetric": {is_symmetric(config)}, '
    if isinstance(config.granularity, PerGroup):
        return f'{common}"block_size": {config.granularity.group_size}}}'
    return f'{common}"quant_format": QuantFormat.QDQ, "channel_wised_quantize": True}}'


def node(name: str) -> str:
    """The node that PyTorch's exporter makes of a module: numbers belong to what is before them."""
    parts: list[str] = []
    for part in name.split("."):
        if part.isdigit() and parts:
            parts[-1] += f".{part}"
        else:
            parts.append(part)
    return "/".join(["", *parts, "MatMul"])


def targets(wanted: Wanted) -> dict[str, QuantConfig]:
    """Configurations by what the script looks for: initializers of an ONNX file, else names of nodes."""
    if wanted.is_onnx:
        return dict(wanted.configs)
    return {node(name): config for name, config in modules(wanted, LABEL).items()}


def selected(slugs: Mapping[str, QuantConfig], integers: bool) -> list[QuantConfig]:
    """The configurations that become MatMulInteger, or the others."""
    return [config for config in slugs.values() if in_integers(config) == integers]


def write(wanted: Wanted) -> str:
    """The script."""
    slugs = wanted.slugs()
    plan = {name: ascii(config.slug) for name, config in targets(wanted).items()}
    return filled(
        SCRIPT,
        INTEGERS=python_dict("INTEGERS", {config.slug: integer_scheme(config) for config in selected(slugs, True)}),
        NBITS=python_dict("NBITS", {config.slug: nbits_scheme(config) for config in selected(slugs, False)}),
        PLAN=python_dict("PLAN", plan),
    )


def command(wanted: Wanted) -> str:
    """How it is run."""
    return "python onnxruntime_plan.py MODEL.onnx OUT.onnx"


def remarks(wanted: Wanted) -> list[str]:
    """How nodes are found, and what int8 brings along."""
    said = [] if wanted.is_onnx else ["nodes are found by the names that PyTorch's exporter gives them"]
    if selected(wanted.slugs(), True):
        said.append(
            "where int8 has a scale per channel or tensor, what goes into a MatMul is rounded to 8 bits too, as it runs"
        )
    return said


ONNXRUNTIME = Tool(LABEL, "onnxruntime_plan.py", command, schemes, write, remarks)
