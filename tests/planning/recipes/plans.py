"""Plans for the tests of recipes: a decoder's weights, as Hugging Face and llama.cpp name them."""

from collections.abc import Mapping

from quantlab.planning.plan import Plan
from quantlab.planning.recipes import RECIPES
from quantlab.planning.recipes.tool import Schemes, wanted_of

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
ROLES = (*ATTENTION, *MLP)
GGUF_ROLES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
BLOCKS = 12
KEPT = ("model.embed_tokens.weight", "model.norm.weight", "model.layers.0.input_layernorm.weight")


def names(roles=ROLES, prefix="model.layers", blocks=BLOCKS):
    """The weights of all blocks."""
    return [f"{prefix}.{block}.{role}.weight" for block in range(blocks) for role in roles]


def plan_of(choices: Mapping[str, str], name: str = "tiny", sha256: str = "ab" * 32, **others) -> Plan:
    """A plan as `planner` makes one, with these choices."""
    told = {"target": "any", "format": "safetensors", "budget": "4.5bpw", "kept": ()} | others
    return Plan(
        choices=dict(choices),
        nbytes=1000,
        damage=1.0,
        bound=1.0,
        gap=0.0,
        objective="relative",
        weighting="role prior",
        weights={},
        damages={},
        limit=1000,
        bits_per_weight=4.5,
        units=(),
        source={"name": name, "sha256": sha256, "tensors": len(choices)},
        versions={"quantlab": "0.1.0"},
        **told,
    )


def mixed(slugs, roles=ROLES, prefix="model.layers", blocks=BLOCKS):
    """Choices that give every block another mix of slugs, whole blocks copied among them; the head is copied, too."""
    words = [*slugs, "copy"]
    chosen = {
        name: words[(i // len(roles) * 3 + (i % len(roles)) // 3) % len(words)]
        for i, name in enumerate(names(roles, prefix, blocks))
    }
    return chosen | {"lm_head.weight": "copy"}


def schemes_of(tool: str, name: str = "tiny") -> Schemes:
    """What a tool can express."""
    return RECIPES[tool].schemes(wanted_of(plan_of({"x.weight": "q4_0"}, name)))


def run(text: str) -> dict:
    """What a script's names stand for, its main part left out."""
    space = {"__name__": "recipe"}
    exec(compile(text, "recipe.py", "exec"), space)
    return space
