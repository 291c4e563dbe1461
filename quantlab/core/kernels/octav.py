"""OCTAV: the clipping that balances what it costs with what rounding costs."""

from .compiling import jit


@jit
def octav_end(total, count, inside, share, other, extreme):
    """The best end of a range for the sum and the count of what lies beyond it; the extreme if nothing does."""
    return (total + share * inside * other) / (count + share * inside) if count > 0.0 else extreme


@jit
def octav_step(sums, counted, share, symmetric, smallest, largest, lo, hi):
    """One iteration of OCTAV for ranges [lo, hi] (float64 [rows, groups], replaced); returns how many moved.

    sums : `group_tail_sums` of the ranges; counted : the values that rounding costs; smallest, largest : the extremes.
    share : weight of a value inside, 4^-bits / 3 if `symmetric` is 1, else 4^-bits / 12; 0 gives the means beyond.
    """
    moved = 0
    for r in range(lo.shape[0]):
        for j in range(lo.shape[1]):
            below, belows, above, aboves = sums[r, j, 0], sums[r, j, 1], sums[r, j, 2], sums[r, j, 3]
            inside = max(counted[r, j] - belows - aboves, 0.0)  # zeros outside are not counted
            if symmetric == 1.0:
                new_hi = octav_end(above - below, aboves + belows, inside, share, 0.0, largest[r, j])
                new_lo = -new_hi
            else:
                new_hi = octav_end(above, aboves, inside, share, lo[r, j], largest[r, j])
                new_lo = octav_end(below, belows, inside, share, hi[r, j], smallest[r, j])
            new_lo, new_hi = max(new_lo, smallest[r, j]), min(new_hi, largest[r, j])
            # A group that stands still keeps its range to the last bit, whatever goes on in others.
            if max(abs(new_hi - hi[r, j]), abs(new_lo - lo[r, j])) > 1e-9 * (new_hi - new_lo):
                lo[r, j], hi[r, j], moved = new_lo, new_hi, moved + 1
    return moved
