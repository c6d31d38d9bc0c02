"""The variance of the ancestral step as the network's own word (Nichol & Dhariwal 2021, section 3.1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from nca_gen.diffusion.discrete import Process
from nca_gen.diffusion.process import x0_of

BIN = 1 / 255  # half the width of a level of x0, as published for pixels in [-1, 1]
FLOOR = 1e-12  # of the probability of a level


def parted(
    output: Float[Array, "B *S K"], channels: int
) -> tuple[Float[Array, "B *S C"], Float[Array, "B *S C"] | None]:
    """(prediction, v) of a network that says both in 2 ``channels``, (prediction, None) of one that does not."""
    if output.shape[-1] == 2 * channels:
        return output[..., :channels], output[..., channels:]
    return output, None


def deviation(beta: Float[Array, ""], ratio: Float[Array, ""], v: Float[Array, "B *S C"]) -> Float[Array, "B *S C"]:
    """Standard deviation of a step t -> u: log variance f log beta + (1 - f) log beta~, f = (v + 1) / 2 (eq. 15).

    ``ratio``: s_u / s_t, so that beta~ = ratio^2 beta. It is 0 at the clean end, where no noise is added.
    """
    f = (v + 1.0) / 2.0
    return jnp.where(ratio > 0, jnp.sqrt(beta) * jnp.maximum(ratio, 1e-20) ** (1.0 - f), 0.0)


def bits(
    process: Process,
    x0: Float[Array, "B *S C"],
    x: Float[Array, "B *S C"],
    prediction: Float[Array, "B *S C"],
    v: Float[Array, "B *S C"],
    t: Int[Array, " B"],
) -> Float[Array, ""]:
    """The variational bound's term of the step t -> t - 1 at x = x_t, mean over elements, in bits (eq. 4 to 7): of a
    discrete process, whose steps are all there are.

    KL(q(x_u | x_t, x0) | p(x_u | x_t)); at t = 0 minus the log probability of a level of x0, ``2 BIN`` wide. Gradients
    go to ``v`` alone. beta~_0 is 0 and its logarithm needed: it is taken to be beta~_1.
    """
    abar = process.abar
    before = np.append(1.0, abar[:-1])
    beta = 1.0 - abar / before
    tilde = (1.0 - before) / (1.0 - abar) * beta
    tilde[0] = tilde[min(1, len(tilde) - 1)] or beta[0]
    share = np.sqrt(before) * beta / (1.0 - abar)  # of x0 in the mean of q (Ho et al. 2020, eq. 7)
    table = (np.log(beta), np.log(tilde), share)
    log_beta, log_tilde, share = (jnp.asarray(row, jnp.float32)[t].reshape(-1, *[1] * (x.ndim - 1)) for row in table)

    f = (v + 1.0) / 2.0
    logvar = f * log_beta + (1.0 - f) * log_tilde
    error = share * (x0 - x0_of(process, jax.lax.stop_gradient(prediction), x, t))  # of the mean; both know x_t
    kl = 0.5 * (logvar - log_tilde + jnp.exp(log_tilde - logvar) + jnp.square(error) * jnp.exp(-logvar) - 1.0)
    below, above = (jax.scipy.stats.norm.cdf((error + edge) * jnp.exp(-0.5 * logvar)) for edge in (-BIN, BIN))
    nll = -jnp.log(jnp.maximum(above - below, FLOOR))
    return jnp.mean(jnp.where(t.reshape(log_beta.shape) == 0, nll, kl)) / np.log(2.0)
