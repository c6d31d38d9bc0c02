"""Repetition is a combinator: how it is cut and what is kept changes nothing but memory."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nca_gen.ca import perceive
from nca_gen.ca.rollout import nested, remembered, repeated, rollout, trajectory


class Grown(NamedTuple):
    x: jax.Array
    age: jax.Array


RNG = np.random.default_rng(0)
KERNEL = jax.device_put(np.float32(0.3 * RNG.standard_normal((3, 4, 4))))
START = jax.device_put(Grown(RNG.standard_normal((2, 6, 4)).astype(np.float32), np.int32(0)))
FIRE = np.float32(RNG.random((20, 2, 6, 1)) < 0.5)


def rule(kernel):
    """A random automaton on a ring; each age has its own fire mask."""

    def step(c):
        seen = jnp.tanh(perceive.shifted(perceive.pad(c.x, "wrap"), kernel))
        return Grown(c.x + jnp.asarray(FIRE)[c.age] * seen, c.age + 1)

    return step


def ways(n):
    """Several ways to take ``n`` (= 12) steps."""
    assert n == 12
    return {
        "flat": lambda f: repeated(f, 12),
        "kept": lambda f: repeated(f, 12, remat=False),
        "nested": lambda f: nested(f, 12),
        "as a word": lambda f: rollout(f, 12, "step", {"step": ()}),
        "three levels": lambda f: repeated(repeated(repeated(f, 2), 2), 3),
        "cut": lambda f: lambda c: repeated(f, 7)(repeated(f, 5)(c)),
        "policy": lambda f: repeated(f, 12, policy=jax.checkpoint_policies.dots_saveable),
        "none and all": lambda f: lambda c: repeated(f, 0)(repeated(f, 12)(c)),
    }


@cache
def end(name):
    """The last state, and the gradient of its energy by the kernel."""

    def energy(kernel, c):
        last = ways(12)[name](rule(kernel))(c)
        return (last.x**2).sum(), last

    return jax.device_get(jax.jit(jax.grad(energy, has_aux=True))(KERNEL, START)[::-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flat", "nested", "as a word", "three levels", "cut", "policy", "none and all"])
def test_every_way_ends_in_the_same_state(name):
    """Bit for bit; and the gradient is the one of keeping everything."""
    (state, gradient), (plain, expected) = end(name), end("kept")
    np.testing.assert_array_equal(state.x, plain.x)
    assert state.age == 12
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_it_is_a_loop():
    """The same steps one by one, in Python."""
    step, cells = jax.jit(lambda kernel, c: rule(kernel)(c)), START
    for _ in range(12):
        cells = step(KERNEL, cells)
    np.testing.assert_allclose(end("kept")[0].x, cells.x, atol=1e-5)


def test_nested_takes_every_number_of_steps():
    """Also those that are no product."""
    numbers = 0, 1, 2, 7, 12, 20
    ends = jax.jit(lambda c: [nested(lambda c: c + 1, n)(c) for n in numbers])(np.int32(5))
    assert [int(end) for end in ends] == [5 + n for n in numbers]


def test_a_trajectory_is_every_state():
    """What is looked at before the first step and after each; of any shape."""
    frames = jax.jit(trajectory(lambda c: 2 * c, 3, lambda c: {"sum": c.sum(), "first": c[0]}))(np.float32([1, 2]))
    np.testing.assert_array_equal(frames["sum"], [3, 6, 12, 24])
    np.testing.assert_array_equal(frames["first"], [1, 2, 4, 8])


@pytest.mark.slow
def test_each_sample_is_remembered_at_its_age():
    """Bit for bit a frame of the trajectory, and the end is what it was."""
    frames = jax.jit(trajectory(rule(KERNEL), 12, lambda c: c.x))(START)
    for age in ([3], [5, 12]):
        step = remembered(rule(KERNEL), jnp.array(age), lambda c: c.x)
        last, then = jax.jit(rollout(step, 12, "nested", {}))((START, START.x))
        np.testing.assert_array_equal(last.x, frames[-1])
        for i in range(2):
            np.testing.assert_array_equal(then[i], frames[age[i % len(age)]][i])


def stored(f, *args):
    """Bytes that the compiled gradient of ``f`` needs beside its arguments."""
    return jax.jit(jax.grad(f)).lower(*args).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_what_the_gradient_keeps():
    """Of 64 states, a flat rollout keeps 64 and a nested one 8 + 8; without rematerialisation several times 64."""
    x, kernel = np.ones((1, 64, 64, 8), np.float32), np.ones((8, 32), np.float32)

    def step(k):
        return lambda x: x + jnp.tanh(jnp.sin(x @ k) @ k.T)

    def needs(roll):
        return stored(lambda k: roll(step(k))(x).sum(), kernel)

    state = x.size * 4
    kept = needs(lambda f: repeated(f, 64, remat=False))
    flat = needs(lambda f: repeated(f, 64))
    deep = needs(lambda f: nested(f, 64))
    assert kept > 4 * 64 * state
    assert 64 * state < flat < 1.5 * 64 * state
    assert deep < 0.6 * flat


def life(cells):
    """Conway's Game of Life on a torus, with the perception of the automata."""
    kernel = jnp.ones((3, 3, 1, 1)).at[1, 1].set(0)
    alive = perceive.convolved(perceive.pad(cells, "wrap"), kernel)
    return jnp.where((alive == 3) | ((alive == 2) & (cells == 1)), 1.0, 0.0)


def test_a_glider_glides():
    """Four generations move it by one cell along the diagonal; 4 x 10 bring it round a torus of 10 x 10."""
    glider = np.zeros((1, 10, 10, 1), np.float32)
    for y, x in [(0, 1), (1, 2), (2, 0), (2, 1), (2, 2)]:
        glider[0, y, x] = 1
    four = jax.jit(repeated(life, 4))
    np.testing.assert_array_equal(four(glider), np.roll(glider, (1, 1), (1, 2)))
    np.testing.assert_array_equal(jax.jit(repeated(repeated(life, 4), 10))(glider), glider)
