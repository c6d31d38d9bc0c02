"""Autocovariance of the stain's mask: how far does a stained place tell that another is stained too?

The two-point correlation S2(r) of :mod:`nca_gen.metrics.two_point` runs from the share f to f^2, so that a little more
or less stain outweighs its structure. Scaled to (S2(r) - f^2) / (f - f^2) it runs from 1 to 0 for any share (Torquato
2002, section 2.2): it falls as fast as islands of stain are small.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from nca_gen.errors import UserError
from nca_gen.io.sets import Images
from nca_gen.metrics import two_point
from nca_gen.metrics.about import About
from nca_gen.metrics.two_point import Stats

ABOUT = About(
    alike="channels",
    reference="Torquato 2002, Random Heterogeneous Materials, Springer, section 2.2; mask by Otsu 1979",
    range="from 0",
    protocol=(
        "Scaled autocovariance (S2(r) - f^2) / (f - f^2) of the stain's mask, f its share and S2 the two-point "
        "correlation, for r from 0 to half of the shorter side, over all pairs of pixels of an image whose distance is "
        "nearest to r, and all images. Stained is where the optical density, mean over channels, is above Otsu's "
        "threshold of the real images. The headline is the root mean square over r of the difference from that of the "
        "real images. Lower is better. It is blind to the share, which two_point shows."
    ),
)

merge = two_point.merge


def scaled(stats: Stats) -> Float64[np.ndarray, " R"]:
    """1 at distance 0, and 0 where a place knows nothing of another; 0 everywhere for a mask of all or nothing."""
    both = stats.both / stats.pairs
    share = both[0]
    variance = share - share**2
    return (both - share**2) / variance if variance else np.zeros_like(both)


def statistics(images: Images, least: float) -> Stats:
    """Those of :func:`nca_gen.metrics.two_point.statistics`."""
    return two_point.statistics(images, least)


def distance(real: Stats, generated: Stats) -> dict[str, float]:
    """``autocovariance``, as far as both reach."""
    reach = min(len(real.pairs), len(generated.pairs))
    ours, theirs = (scaled(of)[:reach] for of in (generated, real))
    return {"autocovariance": float(np.sqrt(np.mean(np.square(ours - theirs))))}


def score(generated: Images, real: Images, train: object, seed: int) -> dict[str, float]:
    """Distance of the scaled autocovariances (see ``ABOUT``); reads neither ``train`` nor ``seed``.

    Raises UserError where there are no images.
    """
    del train, seed
    if not (len(generated) and len(real)):
        raise UserError(f"autocovariance needs images, got {len(generated)} generated and {len(real)} real")
    least = two_point.threshold(real)
    return distance(statistics(real, least), statistics(generated, least))
