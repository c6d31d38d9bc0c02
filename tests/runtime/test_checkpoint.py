import json
import os
import resource
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from nca_gen import devices
from nca_gen.errors import UserError
from nca_gen.runtime import checkpoint, mesh


class State(NamedTuple):
    step: jax.Array
    params: dict
    optimizer: tuple
    keys: jax.Array


def make(n=1000, seed=0, width=3):
    """A state with every kind of leaf that training has: floats of two widths, integers, booleans, typed keys."""
    key = jax.random.key(seed, impl="threefry2x32")
    params = {
        "w": jax.random.normal(key, (n, width)),
        "half": jax.random.normal(key, (5,), jnp.bfloat16),
        "mask": jnp.array([True, False, True]),
    }
    transform = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    return State(jnp.int32(seed), params, transform.init({"w": params["w"]}), jax.random.split(key, 4))


def abstract(state, data=-1):
    return devices.laid(state, mesh.make(data))


def saved_steps(workdir, *steps, keep=None):
    with checkpoint.manager(workdir, keep) as saved:
        for step in steps:
            checkpoint.save(saved, step, make(seed=step), rollbacks=step)
    return workdir


def restored(workdir):
    with checkpoint.manager(workdir) as saved:
        return checkpoint.restore_latest(saved, abstract(make()))


def assert_same(a, b):
    a, b = toy.plain(a), toy.plain(b)
    assert list(a) == list(b)
    for path in a:
        assert a[path].dtype == b[path].dtype, path
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)


def test_what_is_restored_is_what_was_saved(tmp_path):
    state, meta = restored(saved_steps(tmp_path, 5))
    assert_same(state, make(seed=5))
    assert isinstance(state, State)
    assert (meta["step"], meta["rollbacks"], meta["version"]) == (5, 5, checkpoint.VERSION)


def test_nothing_saved_is_none(tmp_path):
    assert restored(tmp_path) is None


@pytest.mark.slow
def test_the_state_may_be_donated_while_it_is_written(tmp_path):
    """Large enough to be written long after save has returned; its buffers are then overwritten again and again."""
    bump = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jax.device_put(jnp.arange(4e6), devices.replicated(mesh.make()))
    with checkpoint.manager(tmp_path) as saved:
        checkpoint.save(saved, 1, {"x": x})
        for _ in range(10):
            x = bump(x)
        x.block_until_ready()
    with checkpoint.manager(tmp_path) as saved:
        state, _ = checkpoint.restore_latest(saved, abstract({"x": x}))
    np.testing.assert_array_equal(state["x"], np.arange(4e6, dtype=np.float32))


@pytest.mark.slow
def test_the_newest_are_kept_and_saving_one_again_is_nothing(tmp_path):
    saved_steps(tmp_path, 1, 2, 3, 3, 7, keep=2)
    assert checkpoint.steps(tmp_path) == [3, 7]


@pytest.mark.parametrize(("there", "here"), [(-1, 1), (1, -1), (2, -1)])
def test_on_another_number_of_devices(tmp_path, there, here):
    state = jax.device_put(make(), devices.replicated(mesh.make(there)))
    with checkpoint.manager(tmp_path) as saved:
        checkpoint.save(saved, 1, state)
    with checkpoint.manager(tmp_path) as saved:
        again, _ = checkpoint.restore_latest(saved, abstract(state, here))
    assert_same(again, state)
    assert {len(x.sharding.device_set) for x in jax.tree.leaves(again)} == {mesh.make(here).size}


def largest(step):
    return max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(step):
    path = largest(step)
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(step):
    path = largest(step)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def lose_a_file(step):
    largest(step).unlink()


def lose_the_seal(step):
    (step / checkpoint.SEAL).unlink()


def spoil_the_seal(step):
    (step / checkpoint.SEAL).write_text("{")


def empty(step):
    shutil.rmtree(step)
    step.mkdir()


DAMAGE = [truncate, flip_a_bit, lose_a_file, lose_the_seal, spoil_the_seal, empty]


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_falls_back_says_so_and_can_be_saved_again(tmp_path, capfd, damage):
    saved_steps(tmp_path, 1, 2, 3)
    damage(tmp_path / "checkpoints/3")
    capfd.readouterr()
    with checkpoint.manager(tmp_path) as saved:
        state, meta = checkpoint.restore_latest(saved, abstract(make()))
        assert meta["step"] == 2
        assert_same(state, make(seed=2))
        said = capfd.readouterr()
        assert said.out.startswith("checkpoint 3 is damaged (")
        assert said.out.endswith("/damaged/3, using step 2\n")
        assert said.out.count("\n") == 1
        assert said.err == ""
        assert (tmp_path / "damaged/3").is_dir()
        checkpoint.save(saved, 3, make(seed=3))
    assert_same(restored(tmp_path)[0], make(seed=3))


@pytest.mark.slow
def test_two_damaged_ones_and_again(tmp_path):
    saved_steps(tmp_path, 1, 2, 3)
    for step in (2, 3):
        truncate(tmp_path / f"checkpoints/{step}")
    assert restored(tmp_path)[1]["step"] == 1
    saved_steps(tmp_path, 2)
    truncate(tmp_path / "checkpoints/2")
    assert restored(tmp_path)[1]["step"] == 1
    assert sorted(p.name for p in (tmp_path / "damaged").iterdir()) == ["2", "2-2", "3"]


def test_all_damaged_is_an_error_and_nothing_is_moved(tmp_path):
    saved_steps(tmp_path, 1, 2)
    for step in (1, 2):
        truncate(tmp_path / f"checkpoints/{step}")
    with pytest.raises(UserError, match=r"every checkpoint .* is damaged \(step 2: .*; step 1: "):
        restored(tmp_path)
    assert checkpoint.steps(tmp_path) == [1, 2]


@pytest.mark.slow
def test_a_disk_that_fails_is_damage_and_one_that_may_not_be_read_is_not(tmp_path, monkeypatch):
    saved_steps(tmp_path, 1, 2)
    newest = largest(tmp_path / "checkpoints/2")

    def failing(path, mode="r", *args, **kwargs):
        if path == newest:
            raise error
        return opened(path, mode, *args, **kwargs)

    opened = type(newest).open
    monkeypatch.setattr(type(newest), "open", failing)
    error = PermissionError(13, "Permission denied", str(newest))
    with pytest.raises(UserError, match="Permission denied; make it readable"):
        restored(tmp_path)
    assert checkpoint.steps(tmp_path) == [1, 2]
    error = OSError(5, "Input/output error", str(newest))
    assert restored(tmp_path)[1]["step"] == 1


def test_every_single_byte_is_sealed(tmp_path):
    """But for the seal's own, orbax' date of commit, and its mark of commitment, without which all can be read."""
    step = saved_steps(tmp_path, 1) / "checkpoints/1"
    files = {str(p.relative_to(step)) for p in step.rglob("*") if p.is_file()}
    sealed = json.loads((step / checkpoint.SEAL).read_text())
    assert files - set(sealed) <= {checkpoint.SEAL, "_CHECKPOINT_METADATA", "commit_success.txt"}
    for name in files - set(sealed) - {checkpoint.SEAL}:
        (step / name).unlink()
    assert_same(restored(tmp_path)[0], make(seed=1))


@pytest.mark.slow
def test_what_a_killed_save_has_left_is_passed_over_and_cleaned_up(tmp_path):
    saved_steps(tmp_path, 1)
    rest = tmp_path / "checkpoints/7.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints/1", rest)
    (tmp_path / "checkpoints/.writable-abc").mkdir()
    with checkpoint.manager(tmp_path) as saved:
        assert checkpoint.restore_latest(saved, abstract(make()))[1]["step"] == 1
        checkpoint.save(saved, 2, make(seed=2))
    assert not rest.exists()
    assert checkpoint.steps(tmp_path) == [1, 2]


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (make(width=4), r"params/w is \(1000, 3\) float32 there and \(1000, 4\) float32 here"),
        (make()._replace(step=jnp.float32(0)), r"step is \(\) int32 there and \(\) float32 here"),
        (make()._replace(params={"v": jnp.zeros(2)}), r"params/v is absent there and \(2,\) float32 here"),
    ],
)
def test_a_checkpoint_of_another_model_names_the_leaf(tmp_path, other, told):
    saved_steps(tmp_path, 1)
    with (
        checkpoint.manager(tmp_path) as saved,
        pytest.raises(UserError, match=f"{told}; choose another --workdir"),
    ):
        checkpoint.restore_latest(saved, abstract(other))
    assert checkpoint.steps(tmp_path) == [1]


@pytest.mark.slow
def test_one_step_or_the_newest_for_reading(tmp_path, capfd):
    saved_steps(tmp_path, 1, 2, 3)
    for asked, got in ((None, 3), (1, 1)):
        state, meta = checkpoint.restore_params(tmp_path, jax.eval_shape(make), asked)
        assert meta["step"] == got
        assert_same(state, make(seed=got))
    truncate(tmp_path / "checkpoints/3")
    capfd.readouterr()
    assert checkpoint.restore_params(tmp_path, jax.eval_shape(make))[1]["step"] == 2
    assert capfd.readouterr().out.endswith("using step 2\n")
    with pytest.raises(UserError, match=r"step 3: .* bytes and had"):
        checkpoint.restore_params(tmp_path, jax.eval_shape(make), 3)
    assert checkpoint.steps(tmp_path) == [1, 2, 3]  # reading moves nothing


def test_reading_leaves_a_save_in_progress_alone(tmp_path):
    saved_steps(tmp_path, 1)
    running = tmp_path / "checkpoints/2.orbax-checkpoint-tmp"
    running.mkdir()
    checkpoint.restore_params(tmp_path, jax.eval_shape(make))
    assert running.is_dir()


def test_reading_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match="train first"):
        checkpoint.restore_params(tmp_path, jax.eval_shape(make))
    saved_steps(tmp_path, 1, 2)
    with pytest.raises(UserError, match=r"no checkpoint of step 7 .*; there are \[1, 2\]"):
        checkpoint.restore_params(tmp_path, jax.eval_shape(make), 7)


def test_rekeyed_changes_the_keys_alone():
    state = make()
    again = checkpoint.rekeyed(state, 3)
    assert_same(again._replace(keys=state.keys), state)
    for before, after in zip(state.keys, again.keys, strict=True):
        expected = jax.random.key_data(jax.random.fold_in(before, 3))
        np.testing.assert_array_equal(jax.random.key_data(after), expected)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_older_checkpoint_stands(tmp_path, capfd):
    """Files may not grow beyond 100 kB: what the system then says comes from the same place as for a full disk."""
    saved_steps(tmp_path, 1)
    large = make(n=200_000)  # before the limit, under which no compiled program could be kept either
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_too_much():
        with checkpoint.manager(tmp_path) as saved:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, unlimited[1]))
            checkpoint.save(saved, 2, large)

    capfd.readouterr()
    try:
        with pytest.raises(UserError, match="File too large; the one of step 1 is untouched") as e:
            save_too_much()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert "\n" not in str(e.value)
    assert capfd.readouterr() == ("", "")
    assert_same(restored(tmp_path)[0], make(seed=1))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with (
        pytest.raises(UserError, match=r"could not be written in .*checkpoints: File exists"),
        checkpoint.manager(tmp_path),
    ):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    saved_steps(tmp_path, 1)
    (tmp_path / "checkpoints").chmod(0o500)
    with pytest.raises(UserError, match="Permission denied; the one of step 1 is untouched"):
        saved_steps(tmp_path, 2)
    (tmp_path / "checkpoints").chmod(0o700)


def cut(data):
    """The shapes of a state of which every large array is cut over so many devices."""
    return devices.laid(wide(), mesh.make(data), "always")


def wide():
    """A state with an array of 8,192 numbers, and the rest of :func:`make`, which is too small to be cut."""
    return make(n=4096, width=2)


@pytest.mark.slow
@pytest.mark.parametrize(("there", "here"), [(4, 2), (4, 0), (0, 4)])
def test_a_state_in_pieces_is_restored_into_others(tmp_path, there, here):
    """From 4 devices to 2, to whole copies, and back from these."""
    lay = lambda data: cut(data) if data else devices.laid(wide(), mesh.make())
    with checkpoint.manager(tmp_path) as saved:
        checkpoint.save(saved, 1, jax.device_put(wide(), devices.shardings(lay(there))))
    with checkpoint.manager(tmp_path) as saved:
        again, _ = checkpoint.restore_latest(saved, lay(here))
    assert_same(again, wide())
    pieces = {shard.data.shape for shard in again.params["w"].addressable_shards}
    assert pieces == {(4096 // here if here else 4096, 2)}


def test_no_more_is_read_than_is_wanted(tmp_path, monkeypatch):
    """The rest of the state comes as it is marked for orbax, not as arrays."""
    saved_steps(tmp_path, 1)
    states = []

    def wanted(state):
        states.append(state)
        return {"half": state.params["half"], "step": state.step}

    found, meta = checkpoint.restore_params(tmp_path, jax.eval_shape(make), of=wanted)
    assert meta["step"] == 1
    assert_same(found, {"half": make(seed=1).params["half"], "step": jnp.int32(1)})
    arrays = [x for x in jax.tree.leaves(states[-1]) if isinstance(x, jax.Array)]
    assert [x.shape for x in arrays] == [(), (5,)]
