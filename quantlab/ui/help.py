"""What the words mean, for someone who knows models but not quantization.

`TERMS` explains each word in a sentence or two; the names of number formats, mappings, granularities, calibrations and
parameters are its keys where they have one, so that a form can look up whatever a registry offers.
"""

from collections.abc import Iterable

from quantlab.plots.scales import FIGURED

TERMS: dict[str, str] = {
    # What a configuration is made of
    "configuration": (
        "One way to store a tensor in fewer bits: a number format, how its codes are laid over the values (mapping), "
        "which values share a scale (granularity), and which range the codes cover (calibration). Its short name says "
        "them in this order: `int4-sym-g128-mse`."
    ),
    "preset": "A configuration that people use by name. Choosing one fills in the fields; change them from there.",
    "dtype": (
        "How each weight is stored. int8 has 256 codes, int4 has 16, and each bit less halves the steps: about 6 dB of "
        "SQNR. fp16 and bf16 are plain 16-bit floats: no scale, nothing to calibrate."
    ),
    "mapping": (
        "How codes become values. **Symmetric**: code × scale; 0 is exact, and the range reaches as far down as up. "
        "**Affine**: (code − zero point) × scale; 0 is exact, and the range may be lopsided. "
        "**Uniform**: offset + code × scale; any range, 0 need not be exact."
    ),
    "granularity": (
        "Which values share a scale. **tensor**: all of them. **channel**: those with the same index along an axis, "
        "such as one output neuron (`ch0`: along axis 0; `ch-1`: along the last). **group**: runs of neighbours within "
        "a row (`g128`: of 128). The fewer share one, the finer the steps and the more scales there are to store."
    ),
    "calibration": (
        "Which range the codes cover. Everything up to the largest value costs coarse steps for all others; clipping "
        "the rarest values buys finer steps."
    ),
    "scale_dtype": (
        "How each scale is stored. 16 bits halve the cost of scales; codes are chosen with the rounded scale, so the "
        "error shown includes it."
    ),
    "pow2_scale": "Only scales that are powers of two: hardware can shift instead of multiply, for coarser steps.",
    # Parameters of granularities and calibrations
    "axis": "The dimension that is counted: 0 is the first, usually output channels; −1 is the last.",
    "group_size": "How many neighbours within a row share a scale. 32, 64 and 128 are usual; the last may be short.",
    "lower": "Values below this percentile are clipped, in percent. 0 clips none.",
    "upper": "Values above this percentile are clipped, in percent. 100 clips none.",
    "bins": "Into how many bins the values are counted before the best range is looked for.",
    "window": "How many of the smallest, and of the largest, values are averaged into each end of the range.",
    "factor": "How far the range moves towards each new batch: 1 forgets the past at once, 0.01 hardly moves.",
    "batches": "Into how many consecutive pieces each group is cut; their ranges are averaged one after the other.",
    "iterations": "How often the range is improved at most; it stops as soon as it stands still.",
    # Calibrations
    "minmax": "From the smallest to the largest value: nothing is clipped, and one outlier sets everyone's step.",
    "percentile": "From one percentile to another, exactly: the rarest values on both ends are clipped.",
    "entropy": (
        "The range whose histogram loses the least information (KL divergence), after TensorRT. A group for which that "
        "is more than 10 dB worse than minmax keeps its full range."
    ),
    "mse": "The range of least squared error, found by search. Never worse than minmax.",
    "octav": "The range that balances rounding and clipping (OCTAV): nearly as good as mse, several times as fast.",
    "exact": "The least squared error of any scale, negative ones too, and zero point. For small groups, not uniform.",
    "movavg": "From the mean of the smallest values to the mean of the largest: softer than minmax.",
    "ema": "Ranges of successive batches, averaged with weights that fade: what training frameworks track.",
    # Figures of a tensor
    "std": "Standard deviation: how far values lie from their mean, typically.",
    "kurtosis": (
        "Excess kurtosis: how heavy the tails are. 0 for a Gaussian, 3 for a Laplace distribution; in the hundreds, "
        "a few values are far larger than all the others, and one scale will not suit both."
    ),
    "zeros": "Share of values that are exactly 0.",
    "outliers": "Share of values more than 6 standard deviations from the mean. A Gaussian has 2 in a billion.",
    "odd": (
        "What stands out. **NaN/inf**: it cannot be quantized. **dead**: zeros throughout; **dead part**: some "
        "channels are. **axis 1**: a channel along that axis reaches so far that it sets everyone's step. "
        "**extreme**: single values do. **one-sided**, **lopsided**: a symmetric mapping leaves half of its codes "
        "unused, or nearly. **large**: beyond float16."
    ),
    "gain": (
        "Measured: SQNR with what helps less SQNR without, at the same number of bits for each weight. What gains less "
        "than 3 dB beyond the bits that its scales take is not listed."
    ),
    "remedy": (
        "What serves this tensor better, and what else was measured. At int8, one scale for the whole tensor is what "
        "others are compared with; at int4 g128, a symmetric mapping in groups of 128."
    ),
    "crest": (
        "Crest factor: largest magnitude over root mean square. 1 is a square wave, 4 is typical of weights; the "
        "larger, the more of the codes lie where hardly any value does."
    ),
    "relative_range": "The channel's largest magnitude over that of the median channel.",
    "histogram": "How many values fall into each of equal bins from the smallest to the largest.",
    "levels": (
        "The values that codes can stand for. Each weight moves to the nearest one; what lies beyond the outermost "
        "is clipped to it."
    ),
    "worst": (
        "**Range**: the largest magnitude. With one scale for the whole tensor, it sets everyone's step. "
        "**Crest factor**: the largest magnitude over the root mean square. Where it is large, even a scale of the "
        "channel's own leaves few codes to most of its values."
    ),
}

METRIC_TERMS: dict[str, str] = {  # where there is more to say than the metric's own line
    "sqnr_db": (
        "Signal-to-quantization-noise ratio: the power of the weights over the power of the error, in decibels. 10 dB "
        "is an error of a third of the typical weight, 20 dB a tenth, 40 dB a hundredth."
    ),
    "bits_per_weight": "Everything stored (codes, scales, zero points) in bits, divided by the number of weights.",
    "compression_ratio": "Bytes of the source, in its own number format, over bytes of the result.",
    "worst_channel_sqnr_db": (
        "The SQNR of the output channel that lost most. Where it is near 0 dB nothing is left of that channel, however "
        "good the figure of the whole tensor. Channels of zeros do not count."
    ),
    "channels_sqnr_db": (
        "The relative error of every output channel, averaged and told in decibels: each channel counts the same, "
        "however small its weights are. Channels of zeros do not count."
    ),
    "clipped_fraction": "Share of the values beyond the outermost level, which are moved to it.",
    "zeroed_fraction": "Share of the values that were not 0 and became 0: what one outlier does to all the others.",
}


def about(term: str) -> str | None:
    """The explanation of a term; None where there is none, so that a widget shows no question mark."""
    return TERMS.get(term) or METRIC_TERMS.get(term)


def about_metric(name: str) -> str:
    """The explanation of a metric. Not `about`: "mse" is a calibration there."""
    return METRIC_TERMS.get(name) or FIGURED[name].help


def about_each(term: str, options: Iterable[str]) -> str | None:
    """The explanation of a term, and of each of its options that has one."""
    lines = [f"- **{option}**: {TERMS[option]}" for option in options if option in TERMS]
    return "\n".join([TERMS[term], "", *lines]) if lines else about(term)
