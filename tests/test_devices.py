"""The number of devices and of processes changes how fast, not what."""

import functools
import itertools
import json
import os
import socket
import subprocess
import sys

import echo
import layers
import numpy as np
import painting
import pytest
import toy

from nca_gen.runtime import checkpoint

SAME = {"rtol": 0, "atol": 5e-6}  # of pixels in [-1, 1]: a product of fewer rows is summed in another order


def seeing(devices):
    """The environment of a process that has so many devices; it compiles as quickly as this one."""
    return {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=4", f"device_count={devices}")}


def losses(workdir):
    return [x["loss"] for x in toy.curve(workdir)]


def two_processes(arguments):
    """What two processes of 2 devices each say, which find each other over localhost; both must end well."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    common = seeing(2) | {"JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": f"localhost:{port}"}
    children = [
        subprocess.Popen(
            [sys.executable, *arguments(i)],
            env=os.environ | common | {"JAX_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    outputs = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    return outputs


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """The losses of 20 steps on 4 devices, one sample on each."""
    workdir = tmp_path_factory.mktemp("four")
    toy.run(workdir, **{"train.steps": 20, "train.log_every": 1})
    return losses(workdir)


@pytest.mark.slow
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
    alone = toy.child(tmp_path, seeing(1), config={**every_step, "train.steps": 12})
    assert "training to step 12 on 1 cpu device(s)" in alone.stdout
    assert "resuming at step 6" in alone.stdout
    toy.run(tmp_path, **every_step, **{"train.steps": 20})
    np.testing.assert_allclose(losses(tmp_path), four, atol=1e-5)


@pytest.mark.slow
def test_two_processes_train_as_one_and_one_goes_on(tmp_path):
    """Each has 2 devices and reads its share of every batch; both write the checkpoint, which one process restores."""
    task, changes = {"noise": 0.0}, {"train.log_every": 1}  # noise belongs to a sample's place in the batch
    toy.run(tmp_path / "one", toy.Task(**task), **changes)
    options = json.dumps({"task": task, "config": changes | {"train.steps": 6}})
    outputs = two_processes(lambda i: [toy.__file__, options, str(tmp_path / "two")])
    digests = {out.split("digest ")[1].strip() for out in outputs}
    assert len(digests) == 1
    assert "training to step 6 on 4 cpu device(s)" in outputs[0]
    assert "training to step" not in outputs[1]
    assert checkpoint.steps(tmp_path / "two") == [4, 6]
    toy.run(tmp_path / "two", toy.Task(**task), **changes)
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), atol=1e-5)


@functools.cache
def unsplit(kind="diff", norm="cell", size=(16, 12)):
    """Four pictures on one device."""
    return painting.paint(kind, norm, 4, size, devices=1)


MODELS = [("diff", "cell"), ("diff", "group"), ("fourier", "cell"), ("fourier", "group")]


@pytest.mark.parametrize(("model", "space"), [*itertools.product(MODELS, (4, 2))])
@pytest.mark.slow
def test_an_image_split_over_devices_is_the_image(model, space):
    np.testing.assert_allclose(painting.paint(*model, space=space), unsplit(*model)[:1], **SAME)


@pytest.mark.parametrize(("model", "space"), [*itertools.product(MODELS, (1, 2))])
@pytest.mark.slow
def test_a_batch_split_over_devices_is_the_batch(model, space):
    """One image a device, and two halves of two."""
    np.testing.assert_allclose(painting.paint(*model, n=4, space=space), unsplit(*model), **SAME)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [4, 14, 17])
def test_any_number_of_rows(rows):
    """A row a device; halves where quarters do not come out; and a prime number, which stays on one device."""
    size = (rows, 9)
    np.testing.assert_allclose(painting.paint(size=size, space=4), unsplit(size=size)[:1], **SAME)


CASES = [
    {"kind": kind, "norm": norm, "n": n, "space": space}
    for (kind, norm), (n, space) in itertools.product(MODELS, [(1, 8), (4, 2)])
]


@pytest.mark.slow
def test_eight_devices(tmp_path):
    """An image in eight parts, and four in two parts each."""
    command = [sys.executable, painting.__file__, str(tmp_path / "x.npz"), json.dumps(CASES)]
    subprocess.run(command, check=True, timeout=120, env=os.environ | seeing(8))
    with np.load(tmp_path / "x.npz") as found:
        for case, x in zip(CASES, found.values(), strict=True):
            np.testing.assert_allclose(x, unsplit(case["kind"], case["norm"])[: case["n"]], **SAME)


@pytest.mark.slow
def test_two_processes_paint_one_image(tmp_path):
    """Half of its rows lie with each, in two parts, or one of two images; both get the whole, and the same."""
    cases = [CASES[0] | {"space": 4}, CASES[3] | {"n": 2}]
    cases.append(CASES[0] | {"size": (17, 9)})  # cannot be split: each process makes it alone
    two_processes(lambda i: [painting.__file__, str(tmp_path / f"{i}.npz"), json.dumps(cases)])
    with np.load(tmp_path / "0.npz") as one, np.load(tmp_path / "1.npz") as other:
        for case, x, y in zip(cases, one.values(), other.values(), strict=True):
            whole = unsplit(case["kind"], case["norm"], case.get("size", (16, 12)))
            np.testing.assert_array_equal(x, y)
            np.testing.assert_allclose(x, whole[: case["n"]], **SAME)


@pytest.mark.slow
def test_two_processes_paint_one_slide(tmp_path):
    """Patches of a wave are dealt to both, which read what the other has painted: the file of one process."""
    two_processes(lambda i: [echo.__file__, str(tmp_path / "two")])
    echo.write(tmp_path / "one", glass=False)
    [one], [other] = tmp_path.glob("one/*.tiff"), tmp_path.glob("two/*.tiff")
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_two_processes_draw_one_volume(tmp_path):
    """Slices are dealt to both, and windows of what the other has drawn too: the file of one process."""
    two_processes(lambda i: [layers.__file__, str(tmp_path / "two")])
    layers.write(tmp_path / "one")
    one, other = (tmp_path / name / "made" / "00000.nii.gz" for name in ("one", "two"))
    assert one.read_bytes() == other.read_bytes()
