"""Counter-based random numbers: from seeds and counters alone, whatever else is drawn. No torch.

SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

import numpy as np
import numpy.typing as npt

Seeds = npt.NDArray[np.uint64]
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1


def mix(state: Seeds) -> Seeds:
    """SplitMix64's output function on each 64-bit state."""
    z = state.copy()
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def keyed(seed: int, *counters: int) -> int:
    """A 64-bit number from a seed and counters: the seed of a branch, or a random choice."""
    state = seed
    for counter in counters:
        state = _mix(_mix(state) + (counter + 1) * int(_GAMMA) & _MASK)
    return state


def _mix(z: int) -> int:
    """`mix` of one number; Python's integers are faster than arrays of one element."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)


def uniforms(seeds: Seeds, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """One number in [0, 1) a row, of 53 bits, from its seed and position alone."""
    bits = mix(mix(seeds) + (positions.astype(np.uint64) + np.uint64(1)) * _GAMMA)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normals(seeds: Seeds, position: int, count: int) -> npt.NDArray[np.float32]:
    """`count` standard normal numbers a row at this position, [rows, count].

    Box and Muller, "A note on the generation of random normal deviates", 1958.
    """
    places = np.arange(2 * count, dtype=np.int64) + 2 * count * position
    u = uniforms(seeds[:, None], places[None, :])
    radius = np.sqrt(-2.0 * np.log1p(-u[:, :count]))
    return (radius * np.cos(2 * np.pi * u[:, count:])).astype(np.float32)


def permutation(seed: int, size: int) -> npt.NDArray[np.int64]:
    """An order of range(size), from the seed alone."""
    keys = uniforms(np.full(size, seed, dtype=np.uint64), np.arange(size, dtype=np.int64))
    return np.argsort(keys, kind="stable")
