"""quantlab in 20 lines: open a model, sweep, look, quantize, export, read back."""

import quantlab as ql
from quantlab.samples import sample_path

with ql.open_checkpoint(sample_path()) as checkpoint:
    configs = ql.grid(
        dtypes=["int8", "int4"],
        mappings=["symmetric", "affine"],
        granularities=[ql.PerChannel(0), ql.PerGroup(32)],
        calibrations=[ql.MinMax(), ql.MSE()],
    )
    name = max(checkpoint.names, key=lambda n: checkpoint.spec(n).size)
    table = ql.sweep(checkpoint, configs, tensors=[name])
    print(table[["config", "sqnr_db", "bits_per_weight", "compression_ratio"]].to_string(index=False))

    best = table[table.bits_per_weight <= 5.5].nlargest(1, "sqnr_db").iloc[0]
    packed = ql.quantize(checkpoint.raw(name), ql.QuantConfig.parse(best.config))
    ql.export("quickstart.npz", {name: packed}, source=checkpoint)

restored = ql.load_packed("quickstart.npz")[name]
print(f"{best.config}: {best.sqnr_db:.2f} dB at {restored.bits_per_weight:.3f} bits per weight, in quickstart.npz")
