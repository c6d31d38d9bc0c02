"""Tensors of torch in flax modules: names, shapes, and a convolution written out in torch's own order."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from nca_gen.errors import UserError
from nca_gen.nn import port


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (2, 3), padding="VALID", use_bias=False, name="features.0")(x)
        x = nn.BatchNorm(True, epsilon=1e-3, name="bn")(x)
        return nn.Dense(5, name="fc")(x.mean((1, 2)))


EXAMPLE = np.zeros((1, 6, 7, 3), np.float32)
NAMES = ["bn.bias", "bn.running_mean", "bn.running_var", "bn.weight", "fc.bias", "fc.weight", "features.0.weight"]


def state():
    return port.random_state(Net(), EXAMPLE, 3)


def test_it_computes_what_torch_does():
    """Channels first, kernels [O, I, y, x], matrices [O, I], as torch's documentation writes them."""
    s, x = state(), np.random.RandomState(0).standard_normal((2, 3, 6, 7))
    weight = s["features.0.weight"]
    assert weight.shape == (4, 3, 2, 3)
    places = [[np.einsum("bcyx,ocyx->bo", x[:, :, i : i + 2, j : j + 3], weight) for j in range(5)] for i in range(5)]
    y = np.moveaxis(places, (0, 1), (2, 3))

    def channel(name):
        return s[f"bn.{name}"][:, None, None]

    y = (y - channel("running_mean")) / np.sqrt(channel("running_var") + 1e-3) * channel("weight") + channel("bias")
    expected = y.mean((2, 3)) @ s["fc.weight"].T + s["fc.bias"]
    variables = port.variables(s, Net(), EXAMPLE)
    assert set(variables) == {"params", "batch_stats"}
    mine = jax.jit(Net().apply)(variables, np.moveaxis(x, 1, -1).astype(np.float32))
    np.testing.assert_allclose(mine, expected, atol=1e-5)


def test_names_that_differ_and_maps_that_are_convolutions():
    """Errors speak of tensors by the names in the file."""
    former = {f"old.{name}": tensor for name, tensor in state().items()}
    former["old.fc.weight"] = former["old.fc.weight"][..., None, None]
    found = port.variables(former, Net(), EXAMPLE, spelled="old.{}".format)
    jax.tree.map(np.testing.assert_array_equal, found, port.variables(state(), Net(), EXAMPLE))
    with pytest.raises(UserError, match=r"lack old\.fc\.weight \(5, 4\)"):
        port.variables(
            {k: v for k, v in former.items() if k != "old.fc.weight"}, Net(), EXAMPLE, spelled="old.{}".format
        )
    former["old.fc.weight"] = np.ones((5, 4, 1, 2))
    with pytest.raises(UserError, match=r"old\.fc\.weight is \(5, 4, 1, 2\), not \(5, 4\)"):
        port.variables(former, Net(), EXAMPLE, spelled="old.{}".format)


def test_random_tensors_are_fixed_and_of_a_sensible_size():
    s = state()
    assert list(s) == NAMES
    np.testing.assert_allclose(s["bn.bias"], 0.1 * np.random.RandomState(3).standard_normal(4), rtol=1e-6)
    wide = port.random_state(nn.Dense(500), np.zeros((1, 800), np.float32), 0)["weight"]
    assert wide.shape == (500, 800)
    assert wide.std() == pytest.approx(np.sqrt(2 / 800), rel=0.01)
    assert 0.75 <= s["bn.running_var"].min() <= s["bn.running_var"].max() <= 1.25
    assert all(tensor.dtype == np.float32 for tensor in s.values())
    again = port.random_state(Net(), jax.ShapeDtypeStruct((9, 60, 70, 3), np.float32), 3)
    for name in NAMES:
        np.testing.assert_array_equal(s[name], again[name])


def test_other_precisions_become_float32():
    variables = port.variables({k: v.astype(np.float16) for k, v in state().items()}, Net(), EXAMPLE)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("fc.weight"), r"lack fc\.weight \(5, 4\)"),
        (lambda s: s.update({"fc.weight": s["fc.weight"].T}), r"fc\.weight is \(4, 5\), not \(5, 4\)"),
        (lambda s: s.update({"bn.weight": np.ones(())}), r"bn\.weight is \(\), not \(4,\)"),
        (lambda s: s.update({"aux.bias": np.ones(2)}), r"aux\.bias \(2,\) has no place"),
    ],
)
def test_weights_of_another_network_are_refused(change, message):
    s = state()
    change(s)
    with pytest.raises(UserError, match=message):
        port.variables(s, Net(), EXAMPLE)


def test_what_may_be_left_out_is_named():
    s = state() | {"bn.num_batches_tracked": np.array(7)}
    port.variables(s, Net(), EXAMPLE)
    with pytest.raises(UserError, match=r"aux\.fc\.bias"):
        port.variables(s | {"aux.fc.bias": np.ones(2)}, Net(), EXAMPLE)
    port.variables(s | {"aux.fc.bias": np.ones(2)}, Net(), EXAMPLE, ignore=("aux.*", *port.COUNTERS))


def started(start, **beside):
    return {start + name: tensor for name, tensor in state().items()} | beside


@pytest.mark.parametrize("start", ["module.", "model.", "_orig_mod.module.", "first_stage_model.", "a.b_c.0."])
def test_what_stands_before_every_name_is_left_out(start):
    """Of DataParallel, torch.compile, Lightning, a network in a larger one: what lies beside is of other networks."""
    found = port.variables(started(start, **{"other.weight": np.ones(3), "step": np.ones(())}), Net(), EXAMPLE)
    jax.tree.map(np.testing.assert_array_equal, found, port.variables(state(), Net(), EXAMPLE))


def test_a_network_that_is_there_twice():
    """As student and teacher: only a reader knows which one is meant. Where the bare names are there, these are."""
    with pytest.raises(UserError, match=r"hold this network as student\. and as teacher\.: save one of them alone"):
        port.variables(started("student.") | started("teacher."), Net(), EXAMPLE)
    assert port.variables(state() | started("ema."), Net(), EXAMPLE, ("ema.*",))


def test_a_beginning_that_only_some_names_have_is_none():
    some = started("module.")
    del some["module.bn.bias"]
    with pytest.raises(UserError, match="the weights lack"):
        port.variables(some, Net(), EXAMPLE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (np.array([1, np.nan], np.float32), "holds NaN or infinite"),
        (np.array([1, np.inf], np.float16), "holds NaN or infinite"),
        (np.array([1, 127], np.int8), "is of type int8: weights are floats"),
    ],
)
def test_what_cannot_be_weights(tensor, message):
    """Numbers of training that diverged, of half precision that ran over, and codes of a quantised network."""
    layer = nn.Dense(2)
    tensors = port.state(layer.init(jax.random.key(0), np.zeros((1, 3), np.float32))) | {"bias": tensor}
    with pytest.raises(UserError, match=f"bias {message}"):
        port.variables(tensors, layer, np.zeros((1, 3), np.float32))
