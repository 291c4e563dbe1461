"""llama-quantize: a file of regular expressions and ggml's types for --tensor-type-file, one a line.

It lower-cases each expression, searches every tensor's name with it (ECMAScript) and lets the first that is found
decide; a file has no comments. So expressions are anchored at both ends, names with capitals are refused, and a last
line keeps what the plan does not speak of: without it the base type would take it.
"""

from collections import Counter

from ...errors import ConfigError
from ...wording import shown
from .gguf_names import in_gguf, is_gguf
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
    chosen, rest = in_gguf(wanted, LABEL), common_kind(wanted)
    for name in chosen:
        check_name(name)
    lines = [f"^{pattern}$={TYPES[slug]}" for slug, names in by_slug(chosen).items() for pattern in patterns(names)]
    lines += [f"^{pattern}$={kind}" for kind, names in kept(wanted, rest).items() for pattern in patterns(names)]
    return "\n".join([*lines, f".={rest}", ""])


def kept(wanted: Wanted, rest: str) -> dict[str, list[str]]:
    """What stays in a type of its own, by the type. The converter gives all that it makes of a model one type."""
    found: dict[str, list[str]] = {}
    for name in (*wanted.copied, *wanted.others) if is_gguf(wanted) else ():
        if (own := kind_of(wanted, name)) != rest and name.endswith(SUFFIX):
            check_name(name)
            found.setdefault(own, []).append(name)
    return found


def check_name(name: str) -> None:
    """ConfigError for a name that no pattern finds."""
    plain(name, LABEL, forbidden="= ")
    if name != name.lower():
        raise ConfigError(
            f"{LABEL} lower-cases its patterns, so that none finds tensor {shown(name)}: copy it, or quantize with "
            "quantlab"
        )


def kind_of(wanted: Wanted, name: str) -> str:
    """ggml's name of the type in which the source has a tensor; the lossless one where that is not known."""
    kind = wanted.known.kinds.get(name, LOSSLESS) if wanted.known else LOSSLESS
    return FLOATS.get(kind, kind)


def common_kind(wanted: Wanted) -> str:
    """The type of most tensors that stay as they are, or that a model is converted to."""
    names = (*wanted.copied, *wanted.others) if is_gguf(wanted) else wanted.plan.choices
    kinds = Counter(kind_of(wanted, name) for name in names if name.endswith(SUFFIX))
    common = kinds.most_common(1)[0][0] if kinds else LOSSLESS
    return common if is_gguf(wanted) or common in FLOATS.values() else LOSSLESS


def base(wanted: Wanted) -> str:
    """The commonest type of the plan, which the file is said to be of: patterns count beside a quantized one only."""
    found = Counter(slug for slug in (config.slug for config in wanted.configs.values()) if TYPES[slug] == slug)
    found.pop("bf16", None)
    return found.most_common(1)[0][0] if found else "q8_0"


def remarks(wanted: Wanted) -> list[str]:
    """What the command's last word must be, and in what type the rest stays."""
    said = [
        f"the command's last word must be {base(wanted)}: beside a type that is not quantized it would ignore the file",
        "builds before July 2026 let --pure and equal types beat the file: take a newer one",
    ]
    if not (is_gguf(wanted) or (wanted.known and wanted.known.arch)):
        said.append("tensors are called as in most of GGUF's architectures: give the model, and it is looked up")
    if not wanted.known:
        said.append(
            f"whatever the plan keeps stays as {LOSSLESS}, which loses nothing and may be larger than its own type: "
            "give the model, and it keeps that"
        )
    return said


def command(wanted: Wanted) -> str:
    """How it is run."""
    run = f"llama-quantize --tensor-type-file types.txt model.gguf quantized.gguf {base(wanted)}"
    convert = f"python convert_hf_to_gguf.py MODEL --outtype {common_kind(wanted)} --outfile model.gguf"
    return run if is_gguf(wanted) else f"{convert} && {run}"


LLAMA_QUANTIZE = Tool(LABEL, "types.txt", command, schemes, write, remarks, comment="")
