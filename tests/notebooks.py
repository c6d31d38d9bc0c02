"""Notebooks, run from top to bottom; `python tests/notebooks.py` runs those of colabs/ and stores what they showed."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat
from jupyter_client import KernelManager

from nca_gen.runtime import effort

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "colabs").glob("*.ipynb"))
LIMIT = 120  # seconds of CPU time, which a free machine needs no longer for
AFRESH = "%reset -sf\nimport os, time\nos.chdir({!r})\nbegun = time.process_time()"
USED = "print(time.process_time() - begun)"


def read(page):
    """The notebook at ``page``."""
    return nbformat.read(page, as_version=4)


@contextlib.contextmanager
def kernel():
    """A process that runs one notebook after the other: of those before it keeps what was imported and compiled."""
    manager = KernelManager()
    try:
        yield manager
    finally:
        if manager.has_kernel:
            manager.shutdown_kernel(now=True)


def run(page, folder, manager):
    """The notebook at ``page`` with its outputs, and its CPU seconds; it is run in ``folder``, beside the configs."""
    (folder / "configs").symlink_to(ROOT / "configs")
    notebook = read(page)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(AFRESH.format(str(folder))))
    notebook.cells.append(nbformat.v4.new_code_cell(USED))
    client = nbclient.NotebookClient(notebook, manager, timeout=4 * LIMIT, record_timing=False)
    try:
        client.execute(env=os.environ | {"XLA_FLAGS": effort.flags()})  # one device, as a notebook of one's own has
    finally:
        if client.kc:
            client.kc.stop_channels()
    took = float(notebook.cells[-1].outputs[0].text)
    del notebook.cells[0], notebook.cells[-1]
    for number, cell in enumerate(code(notebook), 1):
        cell.execution_count = number
        for out in cell.outputs:
            if out.output_type == "stream":
                out.text = out.text.replace(f"{folder}/", "")
    return notebook, took


def code(notebook):
    """Its cells of code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    """All that its cells wrote and showed."""
    return [out for cell in code(notebook) for out in cell.outputs]


def pictures(notebook):
    """Those that it shows, in base64."""
    return [out.data["image/jpeg"] for out in outputs(notebook) if "image/jpeg" in out.get("data", {})]


def said(notebook):
    """What it printed."""
    return "".join(out.text for out in outputs(notebook) if out.output_type == "stream")


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(ROOT)
    for page in map(Path, sys.argv[1:] or PAGES):
        with kernel() as manager, tempfile.TemporaryDirectory() as folder:
            notebook, took = run(page, Path(folder), manager)
        nbformat.write(notebook, page)
        print(
            f"{page.name}: {len(pictures(notebook))} pictures, {page.stat().st_size / 1e3:.0f} kB, {took:.0f} CPU s",
            flush=True,
        )
