"""--mode=describe --for=KIND:N, against numbers by hand and against the program that training compiles."""

import jax
import jax.numpy as jnp
import pytest
import tiny

from nca_gen import main
from nca_gen.errors import UserError
from nca_gen.verbs import describe, describe_fit

GB = 10**9


@pytest.fixture
def large(monkeypatch):
    """A step of 4 GB a device, of which an image of 100 MB; 1 TFLOP and 100 GB an image, on 4 devices."""

    def traced(config, grid, batch, parts):
        return describe_fit.Step(None, batch * 1e12 / grid.size, batch, None)

    def compiled(step, packs):
        between = 3 * GB + (step.operand - 8) * GB / 10
        return describe_fit.Compiled(GB // 2, GB // 2, int(between), step.flop, step.operand * 100e9 / 4)

    monkeypatch.setattr(describe_fit, "traced", traced)
    monkeypatch.setattr(describe_fit, "compiled", compiled)
    return tiny.config(**{"train.batch": 8, "train.steps": 3600, "mesh.data": -1})


def test_what_fits_and_how_long_it_takes(large):
    """T4: 75 % of 16 GB. 200 GB a device and step at 60 % of 320 GB/s take longer than 2 TFLOP at 40 % of 8.1."""
    known = describe_fit.fit(large, "t4:4")
    assert (known["peak_mb"], known["room_mb"], known["fits"]) == (4000, 12000, True)
    assert known["largest_batch"] == 88  # (12 - 4) GB hold 80 more
    assert (known["step_gflop"], known["step_moved_gb"]) == (8000, 800)
    assert known["bound"] == "memory"
    assert known["hours"] == pytest.approx(200e9 / (0.6 * 320e9))
    fast = describe_fit.fit(large, "v5e:4")
    assert fast["room_mb"] == 16000
    assert fast["step_seconds"] == pytest.approx(200e9 / (0.6 * 819e9))


def test_products_take_the_time_where_little_is_moved(large, monkeypatch):
    still = lambda step, packs: describe_fit.Compiled(GB, GB, (step.operand - 8) * GB, step.flop, 0)
    monkeypatch.setattr(describe_fit, "compiled", still)
    known = describe_fit.fit(large, "h100:2")
    assert known["bound"] == "products"
    assert known["step_seconds"] == pytest.approx(4e12 / (0.4 * 494e12))
    assert known["largest_batch"] == 66
    monkeypatch.setattr(describe_fit, "compiled", lambda *step, **how: still(*step, **how)._replace(state=100 * GB))
    over = describe_fit.fit(large, "h100:2")
    assert not over["fits"]
    assert over["largest_batch"] == 0


def test_the_largest_operand_of_a_product():
    """Also of one in a loop; of what is no product nothing counts."""
    a, b = jax.ShapeDtypeStruct((10, 30), "float32"), jax.ShapeDtypeStruct((30, 5), "float32")
    large = jax.ShapeDtypeStruct((1000,), "float32")
    product = lambda a, b, large: (a @ b, large + 1)
    looped = lambda a, b, large: jax.lax.scan(lambda c, _: (c, c @ b), a, length=3)
    for f in (product, looped):
        assert describe_fit.operand(jax.make_jaxpr(f)(a, b, large).jaxpr) == 10 * 30 * 4
    assert describe_fit.operand(jax.make_jaxpr(lambda x: x + 1)(large).jaxpr) == 0


@pytest.mark.slow
def test_what_is_computed_again_is_not_kept():
    """Eight blocks of four products: their gradient keeps 32 arrays, or the 8 that enter a block and 4 of one block.

    So do the compilers of accelerators; that of a CPU finds what is equal, and keeps it.
    """
    x = jax.ShapeDtypeStruct((256, 256), "float32")

    def block(x, w):
        for _ in range(4):
            x = jnp.sin(x @ w)
        return x

    def arrays(part, packs):
        def cost(x, w):
            for _ in range(8):
                x = part(x, w)
            return x.sum()

        step = describe_fit.Step((), 1.0, 0, jax.jit(jax.grad(cost)).lower(x, x))
        return describe_fit.compiled(step, packs).between / (4 * x.size)

    kept = 32
    assert arrays(block, packs=False) >= kept
    assert arrays(jax.checkpoint(block), packs=False) <= 8 + 4 + 4  # and a few on their way
    assert arrays(jax.checkpoint(block), packs=True) >= kept


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("h100:0", "write KIND:N, such as h100:8"),
        ("h100:x", "write KIND:N, such as h100:8"),
        ("h10", "did you mean h100"),
        ("t4:64", "64 devices are asked for, and .* allow 4"),
        ("t4:3", "a batch of 8 does not divide over 3 devices"),
    ],
)
def test_devices_that_there_are_not(large, asked, said):
    with pytest.raises(UserError, match=said):
        describe_fit.fit(large, asked)


def test_it_is_for_describe(capsys):
    assert main.run(["--mode=train", "--workdir=w", "--for=t4"]) == 2
    assert "--for is for --mode=describe" in capsys.readouterr().err


@pytest.mark.slow
def test_it_is_the_program_that_training_compiles(capsys, monkeypatch):
    """On one device: the same bytes, however quickly it is compiled, where it is compiled as for this CPU; products as
    many as a call's, thrice or a little more; and it is said."""
    monkeypatch.setattr(describe_fit, "FRUGAL", describe_fit.QUICK)
    config = tiny.config(**{"train.batch": 4})
    known = describe.describe(config, devices="a100")
    fit = known["for"]
    assert fit["peak_mb"] == pytest.approx(describe.peak_mb(config, describe.build.task(config)), rel=0.01)
    call = known["gflop_per_call"] * 4
    assert 2.5 * call < fit["step_gflop"] < 5 * call
    assert fit["batch_mb"] == pytest.approx(4 * 16 * 16 * 3 * 4 / 1e6)
    said = capsys.readouterr().out
    assert "A100 SXM4 (NVIDIA, A100 datasheet" in said
    assert "it fits" in said
    assert jax.device_count() == 4
