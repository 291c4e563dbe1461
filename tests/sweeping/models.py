"""Files with the tensors that people's checkpoints have beside their weights, small."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

RNG = np.random.default_rng(5)


def floats(*shape: int) -> np.ndarray:
    """Gaussian values."""
    return RNG.standard_normal(shape, dtype=np.float32)


LLM = {
    "model.embed_tokens.weight": (32, 16),
    "model.layers.0.input_layernorm.weight": (16,),
    "model.layers.0.self_attn.q_proj.weight": (16, 16),
    "model.layers.0.mlp.down_proj.weight": (16, 32),
    "model.norm.weight": (16,),
    "lm_head.weight": (32, 16),
}
TRAINING = {
    "model.state_dict.fc.weight": (8, 16),
    "model.state_dict.fc.bias": (8,),
    "model.state_dict.head.weight": (1, 16),  # a layer of one output
    "model.state_dict.optimus.weight": (8, 8),  # begins like "optimizer"
    "model_ema.fc.weight": (8, 16),
    "optimizer.state.0.exp_avg": (8, 16),
    "optimizer.state.0.exp_avg_sq": (8, 16),
    "state.1.momentum_buffer": (8, 16),
    "opt_state.0.mu.fc": (8, 16),
}
WEIGHTS = {
    "llm": sorted(name for name in LLM if "_proj" in name or "lm_head" in name),
    "training": [name for name in TRAINING if name.endswith("weight")],
    "onnx": ["conv.w", "narrow", "matmul.w"],
    "embedding": [],
    "branches": [],
}


def saved(kind: str, folder: Path) -> Path:
    """One of the files of `WEIGHTS`."""
    if kind in ("onnx", "branches"):
        path = folder / f"{kind}.onnx"
        onnx.save(_graph(only_branches=kind == "branches"), path)
        return path
    shapes = {"llm": LLM, "training": TRAINING, "embedding": {"embedding.weight": (64, 16)}}[kind]
    save_file({name: floats(*shape) for name, shape in shapes.items()}, folder / f"{kind}.safetensors")
    return folder / f"{kind}.safetensors"


def _graph(only_branches: bool) -> onnx.ModelProto:
    """Conv, a reshaped bias, a cast weight, and an If whose branches hold weights of their own."""
    branches = {}
    for name in ("then_branch", "else_branch"):
        inner = numpy_helper.from_array(floats(6, 6), f"{name}.w")
        made = helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, None)
        node = helper.make_node("MatMul", ["x", f"{name}.w"], [f"{name}.y"])
        branches[name] = helper.make_graph([node], name, [], [made], [inner])
    top = [] if only_branches else [("conv.w", (4, 3, 2, 2)), ("narrow", (1, 4, 1, 1)), ("matmul.w", (6, 5))]
    top += [("reshaped.bias.0", (1, 4, 1, 1)), ("one", (1, 1))]
    nodes = [helper.make_node("If", ["condition"], ["chosen"], **branches)]
    if not only_branches:
        nodes += [
            helper.make_node("Conv", ["image", "conv.w"], ["hidden"]),
            helper.make_node("Add", ["hidden", "reshaped.bias.0"], ["biased"]),
            helper.make_node("Conv", ["biased", "narrow"], ["y"]),
            helper.make_node("MatMul", ["x", "matmul.w"], ["z"]),
        ]
    graph = helper.make_graph(
        nodes, "graph",
        [
            helper.make_tensor_value_info("condition", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 6)),
            helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, 8, 8)),
        ],
        [helper.make_tensor_value_info("chosen", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(floats(*shape), name) for name, shape in top],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
