"""The number of devices and of processes changes how fast, not what."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import toy

from nca_gen.runtime import checkpoint

ONE = {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}


def losses(workdir):
    return [x["loss"] for x in toy.curve(workdir)]


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """The losses of 20 steps on 4 devices, one sample on each."""
    workdir = tmp_path_factory.mktemp("four")
    toy.run(workdir, **{"train.steps": 20, "train.log_every": 1})
    return losses(workdir)


@pytest.mark.parametrize(("data", "space"), [(1, 1), (2, 2)])
def test_the_loss_over_20_steps_is_the_same_on_any_mesh(tmp_path, four, data, space):
    changes = {"train.steps": 20, "train.log_every": 1, "mesh.data": data, "mesh.space": space}
    toy.run(tmp_path, **changes)
    assert len(four) == 20
    np.testing.assert_allclose(losses(tmp_path), four, atol=1e-5)


@pytest.mark.slow
def test_a_run_moves_from_4_devices_to_1_and_back(tmp_path, four):
    """The middle third in a process that has a single device."""
    every_step = {"train.log_every": 1}
    toy.run(tmp_path, **every_step, **{"train.steps": 6})
    alone = toy.child(tmp_path, ONE, config={**every_step, "train.steps": 12})
    assert "training to step 12 on 1 cpu device(s)" in alone.stdout
    assert "resuming at step 6" in alone.stdout
    toy.run(tmp_path, **every_step, **{"train.steps": 20})
    np.testing.assert_allclose(losses(tmp_path), four, atol=1e-5)


@pytest.mark.slow
def test_two_processes_train_as_one_and_one_goes_on(tmp_path):
    """Each has 2 devices and reads its share of every batch; both write the checkpoint, which one process restores."""
    task, changes = {"noise": 0.0}, {"train.log_every": 1}  # noise belongs to a sample's place in the batch
    toy.run(tmp_path / "one", toy.Task(**task), **changes)
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    common = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_NUM_PROCESSES": "2"}
    common |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}"}
    options = toy.json.dumps({"task": task, "config": changes | {"train.steps": 6}})
    children = [
        subprocess.Popen(
            [sys.executable, toy.__file__, options, str(tmp_path / "two")],
            env=os.environ | common | {"JAX_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    outputs = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    digests = {out.split("digest ")[1].strip() for out in outputs}
    assert len(digests) == 1
    assert "training to step 6 on 4 cpu device(s)" in outputs[0]
    assert "training to step" not in outputs[1]
    assert checkpoint.steps(tmp_path / "two") == [4, 6]
    toy.run(tmp_path / "two", toy.Task(**task), **changes)
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), atol=1e-5)
