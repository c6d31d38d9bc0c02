"""Checkpoints: whole states on disk, committed at once or not at all, checked before they are believed.

``<workdir>/checkpoints/<step>/`` is orbax's, plus a seal: size and CRC-32 of every file, committed with them. The seal
alone decides what is damaged, since orbax restores an array with a flipped bit without a word.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

from nca_gen import hosts
from nca_gen.errors import UserError
from nca_gen.io import write
from nca_gen.runtime.log import say

Manager = Any
"""An orbax.checkpoint.CheckpointManager; orbax is imported when it is needed, while the first step is compiled."""

VERSION = 1  # of what we save beside the state
SEAL = "seal.json"
SLICE = 2**20  # bytes from which on each device that has an array writes a piece of it
UNSEALED = {SEAL, "_CHECKPOINT_METADATA"}  # orbax rewrites the latter when it commits, and restores without it


def folder(workdir: str | os.PathLike) -> Path:
    """Where the checkpoints of ``workdir`` lie."""
    return Path(workdir).absolute() / "checkpoints"


def steps(workdir: str | os.PathLike) -> list[int]:
    """The steps that are committed, oldest first."""
    root = folder(workdir)
    return sorted(int(p.name) for p in root.iterdir() if p.name.isdigit()) if root.is_dir() else []


@contextlib.contextmanager
def manager(workdir: str | os.PathLike, keep: int | None = None) -> Iterator[Manager]:
    """An orbax manager that writes in the background and keeps the newest ``keep``; leaving waits for the last write.

    Raises UserError when the workdir cannot be written, also for a write that fails in the background.
    """
    import orbax.checkpoint as ocp

    root = folder(workdir)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        cleanup_tmp_directories=True,
        async_options=ocp.options.AsyncOptions(post_finalization_callback=lambda: _seal(root)),
    )
    with _quiet():
        _plainly()
        with _written(root):
            root.mkdir(parents=True, exist_ok=True)
            saved = ocp.CheckpointManager(root, options=options)
        try:
            yield saved
        finally:
            with _written(root):
                saved.close()


def _plainly() -> None:
    """orbax cuts an array that is whole on several devices, so that each writes a piece, and compiles a program for
    every shape; that pays from megabytes on. It also notes where each array lay, which we say ourselves to restore."""
    import orbax.checkpoint as ocp
    from orbax.checkpoint._src.metadata.array_metadata_store import Store  # without which a random key is no key

    handler = ocp.type_handlers.ArrayHandler(
        min_slice_bytes_for_replica_parallel=SLICE, enable_write_sharding_file=False, array_metadata_store=Store()
    )
    ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """orbax logs a failed write with four tracebacks, and TensorStore's threads answer an event loop that is gone by
    then; we tell it in one line."""
    from absl import logging

    def ours(record: Any) -> bool:
        return f"{os.sep}orbax{os.sep}" not in record.pathname

    former = sys.unraisablehook
    logging.get_absl_logger().addFilter(ours)
    sys.unraisablehook = lambda u: None if str(u.exc_value) == "Event loop is closed" else former(u)
    try:
        yield
    finally:
        sys.unraisablehook = former
        logging.get_absl_logger().removeFilter(ours)


@contextlib.contextmanager
def _written(root: Path) -> Iterator[None]:
    """Whatever the operating system refused, as one line for the user; orbax and TensorStore raise many types."""
    try:
        yield
    except UserError:
        raise
    except Exception as e:
        code = re.search(r"os_error_code='(\d+)'", str(e))
        reason = e.strerror if isinstance(e, OSError) else os.strerror(int(code[1])) if code else None
        if reason is None:
            raise
        with contextlib.suppress(OSError):
            reason += f"; the one of step {steps(root.parent)[-1]} is untouched" if steps(root.parent) else ""
        raise UserError(
            f"a checkpoint could not be written in {root}: {reason}. Free space there, or make it writable, and run "
            "the same command again"
        ) from e


def save(saved: Manager, step: int, state: PyTree, **extra: Any) -> None:
    """Starts to write ``state`` as ``step``, with ``extra`` as JSON beside it; nothing if that step is there.

    The state is copied before this returns, so that it may be donated. Raises UserError as :func:`manager`.
    """
    import orbax.checkpoint as ocp

    if step in saved.all_steps():
        return
    meta = {"step": step, "version": VERSION, "leaves": leaves(state), **extra}
    with _written(Path(saved.directory)):
        # Where no folder can be made, orbax has started threads before it notices, and they are loud and slow to end.
        with tempfile.TemporaryDirectory(dir=saved.directory, prefix=".writable-"):
            pass
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        saved.save(step, args=items, force=True)


def restore_latest(saved: Manager, abstract: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
    """The newest undamaged state in the layout of ``abstract``, and its JSON {step, ...}; None if there is none.

    ``abstract``: ShapeDtypeStructs with a sharding, see :func:`nca_gen.devices.laid`; on any number of devices, whole
    or cut over them, however it was saved. Damaged ones that are newer are moved to ``<workdir>/damaged/``, and told.
    Raises UserError when all are damaged (none is then moved), or for a state of another model.
    """
    workdir = Path(saved.directory).parent
    saved.wait_until_finished()
    found, damaged = _newest(saved, steps(workdir), abstract)
    for step, reason in damaged:
        assert found is not None  # or _newest had raised
        place = _free(workdir / "damaged" / str(step))
        if jax.process_index() == 0:
            with _written(folder(workdir)):
                place.parent.mkdir(exist_ok=True)
                (folder(workdir) / str(step)).rename(place)
        say(f"checkpoint {step} is damaged ({reason}): moved to {place}, using step {found[1]['step']}")
    if damaged:
        hosts.meet()  # no process lists the directory before the first has moved them
        saved.reload()
    return found


def restore_params(
    workdir: str | os.PathLike, abstract: PyTree, step: int | None = None, of: Callable[[PyTree], PyTree] | None = None
) -> tuple[PyTree, dict[str, Any]]:
    """The state of ``step`` (None: the newest undamaged one) in the layout of ``abstract``, and its JSON. Only reads.

    ``of``: what is wanted of the state, such as ``eval_params``, which is returned; no more is read than it takes, a
    quarter of the whole where Adam and an average are kept. A leaf of ``abstract`` without a sharding goes to the
    first device. Raises UserError when there is no such checkpoint, when it is damaged, and for a state of another
    model.
    """
    import orbax.checkpoint as ocp

    there = steps(workdir)
    if not there:
        raise UserError(f"there is no checkpoint in {folder(workdir)}; train first, or correct --workdir")
    if step is not None and step not in there:
        raise UserError(f"there is no checkpoint of step {step} in {folder(workdir)}; there are {there}")
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or one), abstract)
    with _quiet():
        saved = ocp.CheckpointManager(folder(workdir), options=ocp.CheckpointManagerOptions(read_only=True))
        with contextlib.closing(saved):
            found, damaged = _newest(saved, there if step is None else [step], abstract, of)
    assert found is not None  # there was a candidate
    for bad, reason in damaged:
        say(f"checkpoint {bad} is damaged ({reason}): using step {found[1]['step']}")
    return found


def drop(saved: Manager, step: int) -> None:
    """Removes the checkpoint of ``step``."""
    saved.wait_until_finished()
    saved.delete(step)


def rekeyed(state: PyTree, n: int | jax.Array) -> PyTree:
    """``state`` with ``n`` folded into every random key in it: from here on, another course."""

    def folded(x: Any) -> Any:
        if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return x
        return jax.vmap(lambda k: jax.random.fold_in(k, n))(x.reshape(-1)).reshape(x.shape)

    return jax.tree.map(folded, state)


def leaves(tree: PyTree) -> dict[str, list]:
    """Path -> [shape, dtype] of every array of ``tree``."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(k, simple=True, separator="/"): [list(x.shape), str(x.dtype)] for k, x in flat}


def _newest(
    saved: Manager, candidates: list[int], abstract: PyTree, of: Callable[[PyTree], PyTree] | None = None
) -> tuple[tuple[PyTree, dict[str, Any]] | None, list[tuple[int, str]]]:
    """The newest of ``candidates`` that is whole, and the newer ones with what is wrong. UserError if none is."""
    damaged: list[tuple[int, str]] = []
    for step in reversed(candidates):
        reason = _broken(Path(saved.directory) / str(step))
        if reason is None:
            return _restore(saved, step, abstract, of), damaged
        damaged.append((step, reason))
    if damaged:
        what = "; ".join(f"step {step}: {reason}" for step, reason in damaged)
        raise UserError(
            f"every checkpoint asked for in {saved.directory} is damaged ({what}); restore it from a copy, or choose "
            "another --workdir to start afresh"
        )
    return None, damaged


def _restore(
    saved: Manager, step: int, abstract: PyTree, of: Callable[[PyTree], PyTree] | None
) -> tuple[PyTree, dict[str, Any]]:
    """One state, whose seal holds, or ``of`` it, and its JSON. Raises UserError for a state of another model."""
    import orbax.checkpoint as ocp

    root = Path(saved.directory) / str(step)
    meta = saved.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
    if meta["version"] != VERSION:
        raise UserError(f"{root} has format {meta['version']} and this program reads {VERSION}; update, or retrain")
    then, now = meta["leaves"], leaves(abstract)
    for path in [*now, *then]:
        if then.get(path) != now.get(path):
            there, here = ("absent" if x is None else f"{tuple(x[0])} {x[1]}" for x in (then.get(path), now.get(path)))
            raise UserError(
                f"{root} is of another model: {path} is {there} there and {here} here; choose another --workdir, or "
                "the config that it was trained with"
            )
    if of is None or jax.process_count() > 1:  # several processes restore together, as the manager has it
        state = saved.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))["state"]
        return (of(state) if of else state), meta
    some = jax.tree.map(lambda x, read: x if read else ocp.PLACEHOLDER, abstract, _read(of, abstract))
    how = jax.tree.map(
        lambda x: x if x is ocp.PLACEHOLDER else ocp.ArrayRestoreArgs(dtype=x.dtype, sharding=x.sharding), some
    )
    with contextlib.closing(ocp.Checkpointer(ocp.PyTreeCheckpointHandler())) as reader:
        return of(reader.restore(root / "state", args=ocp.args.PyTreeRestore(some, restore_args=how))), meta


def _read(of: Callable[[PyTree], PyTree], abstract: PyTree) -> PyTree:
    """For every leaf of ``abstract`` whether ``of`` it reads it."""
    jaxpr = jax.make_jaxpr(of)(abstract).jaxpr
    read = {id(x) for x in [*jaxpr.outvars, *(x for step in jaxpr.eqns for x in step.invars)]}
    return jax.tree.unflatten(jax.tree.structure(abstract), [id(x) in read for x in jaxpr.invars])


def _files(root: Path) -> dict[str, list[int]]:
    """Relative path -> [bytes, CRC-32] of the files under ``root`` that the seal covers."""
    paths = sorted(p for p in root.rglob("*") if p.is_file() and p.name not in UNSEALED)
    return {str(p.relative_to(root)): [p.stat().st_size, _crc(p)] for p in paths}


def _crc(path: Path) -> int:
    value = 0
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def _seal(root: Path) -> None:
    """Seals what is about to be committed. orbax calls this on the first host, when all hosts have written their files
    and before the rename that commits them."""
    for path in root.glob("*.orbax-checkpoint-tmp"):
        (path / SEAL).write_text(write.notation(_files(path)))


def _broken(root: Path) -> str | None:
    """What is wrong with the sealed files of ``root``, in words; None if nothing is. UserError if unreadable."""
    try:
        sealed = json.loads((root / SEAL).read_text())
        for name, (size, crc) in sealed.items():
            path = root / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes and had {size}"
            if _crc(path) != crc:
                return f"{name} has changed"
    except FileNotFoundError as e:
        return f"{Path(e.filename).name} is missing"
    except PermissionError as e:
        raise UserError(f"cannot read {e.filename}: {e.strerror}; make it readable") from e
    except OSError as e:  # a disk that fails
        return str(e)
    except (ValueError, TypeError, AttributeError):
        return f"{SEAL} is unreadable"
    return None


def _free(path: Path) -> Path:
    """``path``, with a number behind it if that is taken."""
    n = 1
    while (free := path if n == 1 else path.with_name(f"{path.name}-{n}")).exists():
        n += 1
    return free
