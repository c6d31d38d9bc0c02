"""The package as it is installed: built into a wheel, and used where no checkout is."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
PAGE = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({
        "model": {"name": "diff_nca", "channels": 8, "hidden": 16, "steps": 2},
        "diffusion": {"timesteps": 4},
        "task": {"name": "denoise"},
        "data": {"name": "tissue", "patch": (8, 8)},
        "train": {"steps": 1, "batch": 1},
    })
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the unpacked wheel in ``site``, built from a copy of what it is made of."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "nca_gen"):
        (source / name).symlink_to(ROOT / name)
    done = subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder


def run(folder, *flags):
    environment = os.environ | {"PYTHONPATH": str(folder / "site"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "nca_gen.main", *flags]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
def test_a_wheel_trains_and_reports_outside_of_the_checkout(installed):
    """Templates and style of the report are in it."""
    (installed / "page.py").write_text(PAGE)
    done = run(installed, "--config=page.py", "--workdir=run", "--config.mesh.data=1")
    assert done.returncode == 0, done.stderr
    done = run(installed, "--mode=evaluate", "--workdir=run", "--config.held.n=2", "--config.held.train=2")
    assert done.returncode == 0, done.stderr
    assert "<style>" in (installed / "run" / "report.html").read_text()


@pytest.mark.slow
def test_a_wheel_has_all_of_the_package_and_nothing_else(installed):
    packed = {str(p.relative_to(installed / "site")) for p in (installed / "site").rglob("*") if p.is_file()}
    kinds = (".py", ".html", ".jinja", ".css", ".js", ".json", ".safetensors", ".stablehlo")
    here = {str(p.relative_to(ROOT)) for p in (ROOT / "nca_gen").rglob("*") if p.suffix in kinds}
    here |= {str(p.relative_to(ROOT)) for p in (ROOT / "nca_gen" / "zoo").glob("*/*.md")}
    assert {name for name in packed if ".dist-info/" not in name} == here
