"""The device mesh of a run, over all hosts, how states and batches lie on it (:mod:`nca_gen.devices`), and the company
of the other processes: how they find each other, and what becomes of the rest where one is lost."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from nca_gen import devices, hosts, screen, sections
from nca_gen.errors import UserError
from nca_gen.runtime import watch

LOST = ("Gloo", "NCCL", "nccl", "heartbeat", "coordination", "Connection", "Socket closed", "UNAVAILABLE", "barrier")
HEARTBEAT = 30  # seconds without a sign of life after which a process is lost; jax waits 100
ROLL = 10  # seconds in which those that are left answer, so that the others can be named
MACHINES: list[str] = []  # of all processes, once they have met


def opened(layout: sections.Mesh, batch: int, rows: int) -> Mesh:
    """The mesh of a run, over all hosts. Raises UserError where ``batch`` images of ``rows`` rows cannot lie on it."""
    connect(layout.distributed, layout.patience)
    grid = make(layout.data, layout.space)
    check_batch(grid, batch, rows)
    return grid


@contextlib.contextmanager
def joined(config: Any) -> Iterator[None]:
    """The company of the other processes, after a table of them; nothing on a single host.

    A process that cannot go on leaves at once: of itself it would wait for the others when it exits, and they for it.
    """
    layout = sections.Mesh(**config.get("mesh", {}))
    connect(layout.distributed, layout.patience)
    if jax.process_count() == 1:
        yield
        return
    try:
        with company():
            if not MACHINES:
                MACHINES.extend(introduced())
            yield
            hosts.meet()  # one that is done early would be missed
    except UserError as e:
        leave(f"error: {e}", 2)
    except KeyboardInterrupt:
        leave("interrupted", 130)
    except Exception:
        leave(traceback.format_exc(), 1)


def connect(distributed: bool = False, patience: int | float = 60) -> None:
    """Joins the other hosts, before anything touches a device. Does nothing on a single host.

    With JAX_COORDINATOR_ADDRESS=host:port set, JAX_NUM_PROCESSES and JAX_PROCESS_ID say who is who. With
    ``distributed`` (or for what is not set) jax asks the scheduler: Slurm, Open MPI, Kubernetes or a TPU pod. Raises
    UserError for variables that cannot be right. Those who do not come in ``patience`` seconds are named, and this
    process is ended with the code 75.
    """
    address, count, index = stated(distributed)
    if not (distributed or address) or count == 1 or jax.distributed.is_initialized():
        return
    if address and index is not None:
        reach(address, index, patience)
    # jax leaves it open how long the first process waits for the others, and then nobody would say who is missing.
    from jax._src.lib import _jax

    make = _jax.get_distributed_runtime_service
    _jax.get_distributed_runtime_service = partial(make, cluster_register_timeout=int(patience))
    late = int(patience) + HEARTBEAT  # so that the first is heard
    try:
        jax.distributed.initialize(
            address, count, index, initialization_timeout=late, heartbeat_timeout_seconds=HEARTBEAT
        )
    except (ValueError, RuntimeError) as e:  # incomplete, or nobody answers
        reason = str(e).splitlines()[0]
        raise UserError(
            f"cannot join the other hosts ({reason}); set JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES and "
            "JAX_PROCESS_ID on each"
        ) from e
    finally:
        _jax.get_distributed_runtime_service = make


def stated(distributed: bool) -> tuple[str | None, int | None, int | None]:
    """Address, number of processes and own number, by the environment. Raises UserError for what cannot be right."""
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    names = "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
    words = [os.environ.get(name) or None for name in names]
    for name, word in zip(names, words, strict=True):
        if word and not word.isdecimal():
            raise UserError(f"{name}={word} is no number")
    count, index = (int(word) if word else None for word in words)
    if address and not re.fullmatch(r".+:\d+", address):
        raise UserError(f"JAX_COORDINATOR_ADDRESS={address} is not host:port")
    if address and not distributed and words == [None, None]:
        raise UserError(
            f"JAX_COORDINATOR_ADDRESS={address} is set, and neither JAX_NUM_PROCESSES nor JAX_PROCESS_ID: unset it to "
            "run alone, or set all three on each host"
        )
    if count and index is not None and index >= count:
        raise UserError(f"JAX_PROCESS_ID={index}: JAX_NUM_PROCESSES={count}, so they are 0 to {count - 1}")
    if count and count > 1 and not (address or distributed):
        raise UserError(
            f"JAX_NUM_PROCESSES={count} is set and JAX_COORDINATOR_ADDRESS is not: unset it to run alone, or set both"
        )
    return address, count, index


def reach(address: str, index: int, patience: int | float) -> None:
    """Returns when the first process listens at ``address``; of the first itself, when it can.

    Raises UserError where it cannot. Of any other, exits with 75 where nobody listens for ``patience`` seconds.
    """
    host, _, port = address.rpartition(":")
    if not index:
        with contextlib.closing(socket.socket()) as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                taken.bind(("", int(port)))
            except (OSError, OverflowError) as e:
                raise UserError(
                    f"JAX_COORDINATOR_ADDRESS={address}: cannot listen there ({e}); choose a free port"
                ) from e
        return
    begun = time.monotonic()
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except (OSError, OverflowError) as e:
            if time.monotonic() - begun < patience:
                time.sleep(0.2)
                continue
            line = (
                f"error: process 0 did not come: nobody listens at JAX_COORDINATOR_ADDRESS={address} "
                f"({e.strerror if isinstance(e, OSError) else e}); start it there, or unset the variable to run alone"
            )
            print(line, file=sys.stderr, flush=True)
            raise SystemExit(watch.LOST) from e


def introduced() -> list[str]:
    """The names of the machines of all processes, of which the first shows a table with their devices."""
    from jax.experimental import multihost_utils

    hosts.meet()
    name = np.frombuffer(socket.gethostname().encode()[:64].ljust(64, b"\0"), np.uint8)
    names = [bytes(row).rstrip(b"\0").decode() for row in multihost_utils.process_allgather(name)]
    rows = []
    for process, machine in enumerate(names):
        own = [d for d in jax.devices() if d.process_index == process]
        rows.append([str(process), machine, str(len(own)), own[0].device_kind])
    if hosts.first():
        title = f"{len(names)} processes, {jax.device_count()} devices"
        screen.table(["process", "machine", "devices", "kind"], rows, title)
    return names


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
        leave(f"error: {absent(str(e)) or 'another host was lost'} ({reason}); {watch.ADVICE}", watch.LOST)


def absent(words: str) -> str:
    """Who does not answer to a roll call, or is named in ``words``; nothing where nobody knows."""
    from orbax.checkpoint import multihost

    try:
        multihost.sync_global_processes("roll call", timeout=ROLL, processes={*range(jax.process_count())})
    except (ValueError, RuntimeError) as e:
        words += f"\n{e}"
    lost = watch.names(words)
    return " and ".join(f"process {n} on {machine}" for n, machine in enumerate(MACHINES) if n in lost) + (
        " was lost" if lost else ""
    )


def leave(line: str, code: int) -> None:
    """Ends this process now, with ``line``."""
    print(line.rstrip(), file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)


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
