"""llama-quantize: a file of regular expressions and ggml's types for --tensor-type-file, one a line.

It lower-cases each expression, searches every tensor's name with it (ECMAScript) and lets the first that is found
decide; a file has no comments. So expressions are anchored at both ends, names with capitals are refused, and a last
line keeps what the plan does not speak of: without it the base type would take it.
"""

from collections import Counter

from ...errors import ConfigError
from ...wording import counted, shown
from .text import by_slug, patterns, plain
from .tool import Schemes, Tool, Wanted

LABEL = "llama-quantize"
TYPES = {name: name for name in ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1")} | {"fp16": "f16", "bf16": "bf16"}
FLOATS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
LOSSLESS = "f32"  # holds every value of the other two
SUFFIX = "weight"  # of all that it ever quantizes, and asks the patterns about


def schemes(wanted: Wanted) -> Schemes:
    """ggml's own types."""
    return Schemes(types=tuple(TYPES))


def write(wanted: Wanted) -> str:
    """The lines: what is quantized, what is kept in a type of its own, and the rest."""
    for name in wanted.configs:
        check_name(name)
    lines = [
        f"^{pattern}$={TYPES[slug]}" for slug, names in by_slug(wanted.configs).items() for pattern in patterns(names)
    ]
    rest = common_float(wanted)
    kept: dict[str, list[str]] = {}
    for name in (*wanted.copied, *wanted.others):
        if (own := float_type(wanted, name)) != rest and name.endswith(SUFFIX):
            check_name(name)
            kept.setdefault(own, []).append(name)
    lines += [f"^{pattern}$={own}" for own, names in kept.items() for pattern in patterns(names)]
    return "\n".join([*lines, f".={rest}", ""])


def check_name(name: str) -> None:
    """ConfigError for a name that no pattern finds."""
    plain(name, LABEL, forbidden="= ")
    if name != name.lower():
        raise ConfigError(
            f"{LABEL} lower-cases its patterns, so that none finds tensor {shown(name)}: copy it, or quantize with "
            "quantlab"
        )


def float_type(wanted: Wanted, name: str) -> str:
    """ggml's name of the type in which the source has a tensor; the lossless one where that is not known."""
    return FLOATS.get((wanted.dtypes or {}).get(name, ""), LOSSLESS)


def common_float(wanted: Wanted) -> str:
    """The type of most tensors that stay as they are."""
    kept = Counter(float_type(wanted, name) for name in (*wanted.copied, *wanted.others) if name.endswith(SUFFIX))
    return kept.most_common(1)[0][0] if kept else LOSSLESS


def base(wanted: Wanted) -> str:
    """The commonest type of the plan, which the file is said to be of: patterns count beside a quantized one only."""
    found = Counter(slug for slug in (config.slug for config in wanted.configs.values()) if TYPES[slug] == slug)
    return found.most_common(1)[0][0] if found else "q8_0"


def remarks(wanted: Wanted) -> list[str]:
    """What the command's last word must be, and in what type the rest stays."""
    said = [
        f"the command's last word must be {base(wanted)}: beside a type that is not quantized it would ignore the file",
        "builds before July 2026 let --pure and equal types beat the file: take a newer one",
    ]
    if not wanted.dtypes:
        count = counted(len(wanted.copied), "weight")
        said.append(
            f"{count} of the plan and all that it does not speak of stay as {LOSSLESS}, which loses nothing and may be "
            "larger than their own type: say the model, and they keep theirs"
        )
    return said


def command(wanted: Wanted) -> str:
    """How it is run."""
    return f"llama-quantize --tensor-type-file types.txt model.gguf quantized.gguf {base(wanted)}"


LLAMA_QUANTIZE = Tool(LABEL, "types.txt", command, schemes, write, remarks, comment="")
