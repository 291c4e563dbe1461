"""Files that are quantized already: integer codes beside the scales that belong to them."""

from collections.abc import Mapping

# What the codes of a weight are called, and what its scales are called beside them: by the tensor's own name, or by
# that of its module. Other people's habits: compressed-tensors, GPTQ and AWQ, bitsandbytes, MLX, fp8 of DeepSeek.
BY_NAME = ("{name}.scale", "{name}_scale", "{name}.scales", "{name}_scales", "{name}.absmax", "{name}_scale_inv")
BY_MODULE = ("{module}.weight_scale", "{module}.scales", "{module}.scale", "{module}.absmax")
QUANTIZED, PARTS = "quantized already", "scales of quantized numbers"
CODES = frozenset({"int8", "uint8", "int16", "int32", "uint32", "float8_e4m3fn", "float8_e5m2"})


def scales_of(name: str, names: Mapping[str, object]) -> str | None:
    """The tensor that holds the scales of a tensor of codes, by its name; None if there is none.

    >>> scales_of("fc.qweight", {"fc.qweight": 0, "fc.scales": 0})
    'fc.scales'
    """
    module = name.rpartition(".")[0]
    candidates = [form.format(name=name) for form in BY_NAME]
    candidates += [form.format(module=module) for form in BY_MODULE if module]
    return next((found for found in candidates if found in names and found != name), None)
