"""Affine maps of all cells, with gradients that XLA for CPU computes the fast way round.

A kernel is ``[B, I, O]``: one for each image, because gates that are constant over space are folded into it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float


def _product(x: Array, kernel: Array) -> Array:
    """Of cells ``[B, *S, I]``, accumulated in float32."""
    y = jnp.matmul(_rows(x), kernel, preferred_element_type=jnp.float32)
    return y.reshape(*x.shape[:-1], -1)


def _rows(x: Array) -> Array:
    return x.reshape(x.shape[0], -1, x.shape[-1])


@jax.custom_vjp
def affine(
    x: Float[Array, "B *S I"], kernel: Float[Array, "B I O"], bias: Float[Array, "B 1 O"]
) -> Float[Array, "B *S O"]:
    """x @ kernel + bias, for fewer inputs than outputs: the bias is the weight of one more input, which is always 1.

    So neither pass goes over the outputs once more for its sake.
    """
    return _affine(x, kernel, bias)[0]


def _affine(x, kernel, bias):
    x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], -1)
    return _product(x, jnp.concatenate([kernel, bias.astype(kernel.dtype)], 1)), (x, kernel)


def _affine_gradient(residuals, d):
    x, kernel = residuals
    d = d.astype(kernel.dtype)
    both = _product(_rows(x).mT, _rows(d))
    return _product(d, kernel.mT).astype(x.dtype), both[:, :-1].astype(kernel.dtype), both[:, -1:]


affine.defvjp(_affine, _affine_gradient)


@jax.custom_vjp
def linear(x: Float[Array, "B *S I"], kernel: Float[Array, "B I O"]) -> Float[Array, "B *S O"]:
    """x @ kernel, for more inputs than outputs: the gradient of the kernel is computed transposed."""
    return _product(x, kernel)


def _linear_gradient(residuals, d):
    x, kernel = residuals
    d = d.astype(kernel.dtype)
    transposed = jax.lax.optimization_barrier(_product(_rows(d).mT, _rows(x)))  # or XLA would turn it back
    return _product(d, kernel.mT).astype(x.dtype), transposed.mT.astype(kernel.dtype)


linear.defvjp(lambda x, kernel: (_product(x, kernel), (x, kernel)), _linear_gradient)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: Float[Array, "*N I"], kernel: Float[Array, "I O"], dtype: Any) -> Float[Array, "*N O"]:
    """x @ kernel for one kernel and any cells: of numbers of ``dtype``, accumulated and returned in float32."""
    return jnp.dot(x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32)


def _product_gradient(dtype, residuals, d):
    x, kernel = residuals
    times = partial(jnp.dot, preferred_element_type=jnp.float32)

    def rows(a):
        return a.reshape(-1, a.shape[-1]).astype(dtype)

    dx = times(d.astype(dtype), _turned(kernel.astype(dtype)))
    # The narrower of the two is turned: less to move, and what made the wider one is long to compute against the grain.
    if x.shape[-1] < d.shape[-1]:
        dkernel = times(_turned(rows(x)), rows(d))
    else:
        dkernel = jax.lax.optimization_barrier(times(_turned(rows(d)), rows(x))).T
    return dx.astype(x.dtype), dkernel.astype(kernel.dtype)


def _turned(a: Float[Array, "n m"]) -> Float[Array, "m n"]:
    """The transpose; of bfloat16 laid out anew, because XLA for CPU multiplies only rows by columns at that speed."""
    return a.T if a.dtype != jnp.bfloat16 else with_layout_constraint(a.T, Layout(major_to_minor=(0, 1)))


product.defvjp(lambda x, kernel, dtype: (product(x, kernel, dtype), (x, kernel)), _product_gradient)
