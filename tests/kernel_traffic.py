"""What a step of Diff-NCA at its published size moves: as kernels, by their blocks, and as single operations, by XLA.

PYTHONPATH=. python tests/kernel_traffic.py
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from nca_gen.models import diff_nca
from nca_gen.nn import kernel

B, SIDE, C, H = 2, 64, 96, 512
FORMS = ({"conv": "convolved"}, {"conv": "split"}, {"rule": "plain"})


def fused(norm: str) -> list[float]:
    """Bytes a cell that a step and its gradient move as kernels."""
    return [n / (B * SIDE**2) for n in kernel.traffic((B, SIDE, SIDE, C), B, H, norm == "cell")]


def unfused(norm: str, **form: str) -> Iterator[float]:
    """Bytes a cell that the program of another ``form`` accesses for a step, and for its gradient."""
    model = diff_nca.Model(norm=norm, **form)
    scalars, state, fire = (
        jax.ShapeDtypeStruct((B, *s), jnp.float32) for s in ((1, 1, 2), (SIDE, SIDE, C), (SIDE, SIDE, 1))
    )
    params = jax.eval_shape(model.init, jax.random.key(0))["image"]
    w = jax.eval_shape(lambda p: model.side(C).apply({"params": p}), params)
    step = lambda w, s, x, fire: model.change(w)(s, x, fire > 0, "reflect")
    gradient = lambda w, s, x, fire, d: jax.vjp(lambda *some: step(*some, fire), w, s, x)[1](d)
    for f, more in ((step, ()), (gradient, (state,))):
        program = jax.jit(f).lower(w, scalars, state, fire, *more).compile()
        yield program.cost_analysis()["bytes accessed"] / (B * SIDE**2)


if __name__ == "__main__":
    for norm in ("cell", "group"):
        print(norm, "kernel", *(round(n) for n in fused(norm)))
        for form in FORMS:
            print(norm, *form.values(), *(round(n) for n in unfused(norm, **form)), flush=True)
