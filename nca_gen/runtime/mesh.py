"""The device mesh of a run, over all hosts, and how states and batches lie on it (:mod:`nca_gen.devices`)."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from nca_gen import devices, sections
from nca_gen.errors import UserError

LOST = ("Gloo", "NCCL", "nccl", "heartbeat", "coordination", "Connection", "Socket closed", "UNAVAILABLE", "barrier")


def opened(layout: sections.Mesh, batch: int, rows: int) -> Mesh:
    """The mesh of a run, over all hosts. Raises UserError where ``batch`` images of ``rows`` rows cannot lie on it."""
    connect(layout.distributed)
    grid = make(layout.data, layout.space)
    check_batch(grid, batch, rows)
    return grid


def connect(distributed: bool = False) -> None:
    """Joins the other hosts, before anything touches a device. Does nothing on a single host.

    With JAX_COORDINATOR_ADDRESS=host:port set, JAX_NUM_PROCESSES and JAX_PROCESS_ID say who is who. With
    ``distributed`` (or for what is not set) jax asks the scheduler: Slurm, Open MPI, Kubernetes or a TPU pod.
    """
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if not (distributed or address) or jax.distributed.is_initialized():
        return
    stated = (os.environ.get(name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
    try:
        count, index = (int(number) if number else None for number in stated)
        jax.distributed.initialize(address, count, index)
    except (ValueError, RuntimeError) as e:  # incomplete, or nobody answers
        reason = str(e).splitlines()[0]
        raise UserError(
            f"cannot join the other hosts ({reason}); set JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES and "
            "JAX_PROCESS_ID on each"
        ) from e


@contextlib.contextmanager
def company() -> Iterator[None]:
    """Ends this process at once, in one line and with the code 75, where another host is lost while it is inside.

    Of itself it would wait for that host when it exits, and then be aborted with a stack of C++.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as e:
        if jax.process_count() == 1 or not any(sign in str(e) for sign in LOST):
            raise
        reason = str(e).splitlines()[0]
        print(
            f"error: another host was lost ({reason}); the same command on all hosts goes on from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        sys.stdout.flush()
        os._exit(75)  # of sysexits.h: to be tried again


def make(data: int = -1, space: int = 1) -> Mesh:
    """``data`` x ``space`` devices; ``data=-1`` takes all that ``space`` leaves.

    Raises UserError when there are too few devices, or some host would be left out.
    """
    n = jax.device_count()
    if space < 1 or (data < 1 and data != -1):
        raise UserError(f"config.mesh.data={data}, space={space}: give positive numbers, or data=-1 for all devices")
    rows = n // space if data == -1 else data
    if not rows or rows * space > n:
        raise UserError(f"a mesh of data={data}, space={space} needs {max(rows, 1) * space} devices and there are {n}")
    if jax.process_count() > 1 and (rows * space != n or jax.local_device_count() % space):
        raise UserError(
            f"a mesh of data={data}, space={space} does not use the {n} devices of {jax.process_count()} hosts evenly: "
            f"set config.mesh.data=-1, and space to a divisor of {jax.local_device_count()}, the devices of a host"
        )
    return devices.mesh(jax.devices(), rows, space)


def check_batch(mesh: Mesh, batch: int, rows: int) -> None:
    """Raises UserError when ``batch`` images of ``rows`` rows cannot be dealt evenly over the mesh."""
    data, space = mesh.shape["data"], mesh.shape["space"]
    if batch < 1 or batch % data:
        fitting = max(d for d in range(1, data + 1) if batch % d == 0)
        raise UserError(
            f"a batch of {batch} does not divide over {data} devices: set config.train.batch to a multiple of {data}, "
            f"or config.mesh.data={fitting}"
        )
    if rows % space:
        raise UserError(f"{rows} rows do not divide over config.mesh.space={space}; choose a divisor")


def put(batch: dict[str, Any], mesh: Mesh) -> dict[str, Any]:
    """The arrays of ``batch`` on the mesh. Every process gives its own share of the samples, in order of process."""
    return {k: jax.make_array_from_process_local_data(devices.dealt(mesh, np.ndim(x)), x) for k, x in batch.items()}


def abstract(tree: PyTree, mesh: Mesh) -> PyTree:
    """Shapes and dtypes of ``tree``, each to lie replicated on ``mesh``: what a checkpoint is restored into."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=devices.replicated(mesh)), tree)


def anywhere(flag: bool) -> bool:
    """Whether ``flag`` holds on any process. With several, all must call it, and it waits for the slowest."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.array(flag)).any())
