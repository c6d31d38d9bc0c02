"""At which times to sample: n of them, spread over a process by another measure than time itself.

Every grid begins at the highest noise and ends at the clean image; lambda = log(a / s) is half the log-SNR. Or times
are written out, "299+231+65+6", as a search has found them (:mod:`nca_gen.evaluators.grid`).
"""

from __future__ import annotations

import re
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num

from nca_gen.contracts import Process
from nca_gen.errors import UserError, unknown

ENDS = (-4.0, 3.0)  # of lambda, between which a network decides what a picture shows
RHO = 7.0  # Karras et al. 2022 (arXiv 2206.00364), equation 5
DENSE = 10_000  # times at which a continuous process is looked up


def log_snr(low: float, high: float, n: int) -> Float[np.ndarray, " n"]:
    """Even steps of lambda (Lu et al. 2022, arXiv 2206.00927, section 3.4)."""
    return np.linspace(low, high, n)


def log_snr_clipped(low: float, high: float, n: int) -> Float[np.ndarray, " n"]:
    """The same within :data:`ENDS`: beyond them steps change little, and a cosine schedule has many."""
    return np.linspace(max(low, ENDS[0]), min(high, ENDS[1]), n)


def karras(low: float, high: float, n: int) -> Float[np.ndarray, " n"]:
    """Even steps of (s / a)^(1 / rho) (Karras et al. 2022)."""
    first, last = np.exp(-low) ** (1 / RHO), np.exp(-high) ** (1 / RHO)
    return -RHO * np.log(np.linspace(first, last, n))


SPREAD: dict[str, Callable[[float, float, int], np.ndarray]] = {
    "log_snr": log_snr,
    "log_snr_clipped": log_snr_clipped,
    "karras": karras,
}
GRIDS = ("uniform", "trailing", *SPREAD)
NUMBER = r"\d+(\.\d+)?(e-\d+)?"
STATED = rf"{NUMBER}(\+{NUMBER})+"  # times, written out


def word(grid: str) -> bool:
    """Whether it is one of :data:`GRIDS`, times written out, or may be the name of a grid that a run has found."""
    return bool(grid in GRIDS or re.fullmatch(STATED, grid) or re.fullmatch(r"searched_\d+", grid))


def written(times: Num[np.ndarray, " n"]) -> str:
    """``times`` written out, without the clean end."""
    return "+".join(f"{t:.6g}" for t in times)


def stated(process: Process, grid: str) -> Num[np.ndarray, " n"]:
    """The times that ``grid`` writes out, and the clean end. Raises UserError for those that ``process`` has not, or
    that do not fall."""
    ends = process.times(1)
    times = np.array([*map(float, grid.split("+")), ends[-1]])
    whole = not np.issubdtype(ends.dtype, np.integer) or (np.round(times) == times).all()
    if (np.diff(times) >= 0).any() or times[0] > ends[0] or not whole:
        raise UserError(f"{grid}: give times that fall, from no more than {ends[0]} down, such as {written(ends[:1])}")
    return times.astype(ends.dtype)


def times(process: Process, n: int, grid: str = "uniform") -> Num[np.ndarray, " {n}+1"]:
    """``n`` descending times of ``process`` and, last, the clean end.

    ``grid``: "uniform" as the process has them; "trailing" in equal steps down from the noisiest, the last of which
    ends at the clean image (Lin et al. 2024, arXiv 2305.08891); a row of :data:`SPREAD`, whose values of lambda each
    get the nearest time, all different; or n times that are written out (:func:`stated`). Raises UserError for an ``n``
    that the process or the ``grid`` has not, and for a name that is none of these.
    """
    even = process.times(n)
    if "+" in grid:
        if (there := 1 + grid.count("+")) != n:
            raise UserError(f"{grid} are the times of {there} calls, and {n} are asked for: ask for {there}")
        return stated(process, grid)
    if grid not in GRIDS:
        raise unknown("grid of times", grid, GRIDS)
    if grid == "uniform":
        return even
    discrete = np.issubdtype(even.dtype, np.integer)
    if grid == "trailing":
        down = lambda T: np.append(np.round(T - np.arange(n) * (T / n)).astype(int) - 1, -1)
        return down(int(process.span)) if discrete else even
    there = process.times(int(process.span) if discrete else DENSE)[:-1]
    a, s = (np.asarray(level, np.float64) for level in process.levels(jnp.asarray(there)))
    with np.errstate(divide="ignore"):
        ratio = np.log(a) - np.log(s)  # rising
    finite = np.isfinite(ratio)  # where a path begins with no signal at all, the noisiest time is the first anyway
    wanted = SPREAD[grid](float(ratio[finite][0]), float(ratio[finite][-1]), n)
    if not discrete:
        return np.append(even[0], [*np.interp(wanted[1:], ratio[finite], there[finite]), 0.0]).astype(even.dtype)
    found = [even[0]]
    for k, value in enumerate(wanted[1:], 1):
        nearest = there[np.abs(ratio - value).argmin()]
        found.append(max(min(nearest, found[-1] - 1), n - 1 - k))  # strictly falling, with room for those to come
    return np.append(np.array(found, even.dtype), -1)
