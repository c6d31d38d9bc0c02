import socket
import sys

import jax
import numpy as np
import pytest
import toy

from nca_gen import hosts
from nca_gen.errors import UserError
from nca_gen.runtime import mesh


@pytest.mark.parametrize(
    ("data", "space", "shape"), [(-1, 1, (4, 1)), (-1, 2, (2, 2)), (2, 1, (2, 1)), (1, 4, (1, 4)), (-1, 3, (1, 3))]
)
def test_data_takes_what_space_leaves(data, space, shape):
    made = mesh.make(data, space)
    assert tuple(made.shape.items()) == (("data", shape[0]), ("space", shape[1]))


@pytest.mark.parametrize(("data", "space"), [(8, 1), (-1, 8), (3, 2)])
def test_more_devices_than_there_are(data, space):
    with pytest.raises(UserError, match=r"needs \d+ devices and there are 4"):
        mesh.make(data, space)


@pytest.mark.parametrize(("data", "space"), [(0, 1), (-2, 1), (1, 0)])
def test_sizes_that_mean_nothing(data, space):
    with pytest.raises(UserError, match="give positive numbers"):
        mesh.make(data, space)


def test_samples_lie_in_order_over_data_and_rows_over_space():
    devices = mesh.make(2, 2)
    image, label = np.arange(4 * 6 * 3.0).reshape(4, 6, 3, 1), np.arange(4)
    put = mesh.put({"image": image, "label": label}, devices)
    for i in range(2):
        for j in range(2):
            device = devices.devices[i, j]
            block = next(s.data for s in put["image"].addressable_shards if s.device == device)
            np.testing.assert_array_equal(block, image[2 * i : 2 * i + 2, 3 * j : 3 * j + 3])
            block = next(s.data for s in put["label"].addressable_shards if s.device == device)
            np.testing.assert_array_equal(block, label[2 * i : 2 * i + 2])


@pytest.mark.parametrize(("batch", "fitting"), [(6, 3), (1, 1), (2, 2)])
def test_a_batch_that_does_not_divide_names_a_mesh_that_does(batch, fitting):
    with pytest.raises(UserError, match=f"multiple of 4, or config.mesh.data={fitting}$"):
        mesh.check_batch(mesh.make(), batch, 16)
    mesh.check_batch(mesh.make(fitting), batch, 16)


def test_rows_that_do_not_divide():
    with pytest.raises(UserError, match=r"15 rows do not divide over config\.mesh\.space=2"):
        mesh.check_batch(mesh.make(1, 2), 4, 15)


def test_one_process_joins_nobody(monkeypatch):
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    mesh.connect()
    assert not jax.distributed.is_initialized()
    assert hosts.anywhere(True)
    assert not hosts.anywhere(False)


NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (("host:1", "", ""), r"host:1 is set, and neither .*: unset it to run alone, or set all three on each host$"),
        (("host:1", "2", "2"), r"JAX_PROCESS_ID=2: JAX_NUM_PROCESSES=2, so they are 0 to 1$"),
        (("host:1", "2", "-1"), r"JAX_PROCESS_ID=-1 is no number$"),
        (("host:1", "two", "0"), r"JAX_NUM_PROCESSES=two is no number$"),
        (("host", "2", "0"), r"JAX_COORDINATOR_ADDRESS=host is not host:port$"),
        (("", "2", "0"), r"JAX_NUM_PROCESSES=2 is set and JAX_COORDINATOR_ADDRESS is not"),
    ],
)
def test_variables_that_cannot_be_right(variables, said, monkeypatch):
    for name, value in zip(NAMES, variables, strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said):
        mesh.connect()


def test_one_process_of_one_joins_nobody(monkeypatch):
    for name, value in zip(NAMES, ("host:1", "1", "0"), strict=True):
        monkeypatch.setenv(name, value)
    mesh.connect()
    assert not jax.distributed.is_initialized()


def test_a_coordinator_that_nobody_is(capsys):
    """A stale address, or a first process that has not come: one line, and the code of a host that is missing."""
    with socket.socket() as s:
        s.bind(("localhost", 0))  # and does not listen
        address = f"localhost:{s.getsockname()[1]}"
        with pytest.raises(SystemExit) as ended:
            mesh.reach(address, 1, 0.5)
        assert ended.value.code == 75
        line = capsys.readouterr().err
        assert line.startswith(f"error: process 0 did not come: nobody listens at JAX_COORDINATOR_ADDRESS={address}")
        assert line.count("\n") == 1
        s.listen()
        mesh.reach(address, 1, 0.5)
        with pytest.raises(UserError, match=f"{address}: cannot listen there .*; choose a free port$"):
            mesh.reach(address, 0, 0.5)


@pytest.mark.slow
def test_a_coordinator_without_the_rest_says_what_to_set(tmp_path):
    """In a process of its own: here the devices are taken already."""
    done = toy.child(tmp_path, environment={"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_PROCESS_ID": "0"})
    assert done.stderr.startswith("error: cannot join the other hosts (Number of processes must be defined.); set JAX_")


@pytest.mark.parametrize(
    "said",
    [
        "UNKNOWN: Gloo all-reduce failed: [pair.cc:538] Read error [127.0.0.1]:10903: Connection reset by peer",
        "INTERNAL: Barrier failed because: task is set to ERROR: UNAVAILABLE: Task 1 heartbeat timeout.",
        "INTERNAL: NCCL operation ncclGroupEnd() failed: remote process exited or there was a network error",
    ],
)
def test_a_lost_host_ends_the_process_in_one_line(said, monkeypatch, capsys):
    """At once, with a code of its own: the ordinary exit waits for a host that is gone, and is then aborted."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(mesh.os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as ended, mesh.company():
        raise jax.errors.JaxRuntimeError(f"{said}\nand a page of C++")
    assert ended.value.code == 75
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error: another host was lost ({said}); the same command on all hosts goes on")


@pytest.mark.parametrize(("hosts", "said"), [(1, "UNKNOWN: Gloo all-reduce failed"), (2, "RESOURCE_EXHAUSTED: memory")])
def test_what_is_no_lost_host_keeps_its_traceback(hosts, said, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: hosts)
    with pytest.raises(jax.errors.JaxRuntimeError, match=said), mesh.company():
        raise jax.errors.JaxRuntimeError(said)
