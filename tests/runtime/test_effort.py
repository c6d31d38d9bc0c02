"""Which flags XLA is given, by what the config says of the compiler's effort, and in which process."""

import os
import subprocess
import sys

import pytest

from nca_gen import config as configs
from nca_gen.runtime import ahead, effort

FLAGS = "--xla_force_host_platform_device_count=2"
LITTLE, FULL = {"train": {"effort": "little"}}, {"train": {"effort": "full"}}


@pytest.mark.parametrize(
    ("some", "before", "after"),
    [
        ([LITTLE], FLAGS, f"{FLAGS} {effort.flags()}"),
        ([LITTLE, LITTLE], "", effort.flags()),
        ([LITTLE, FULL], FLAGS, FLAGS),
        ([{}], FLAGS, FLAGS),  # as old runs have it, and what needs no training
        ([LITTLE], "--xla_backend_optimization_level=1", "--xla_backend_optimization_level=1"),
    ],
)
def test_flags(monkeypatch, some, before, after):
    monkeypatch.setenv("XLA_FLAGS", before)
    effort.spend(*some)
    assert os.environ["XLA_FLAGS"] == after
    known = "xla_backend_optimization_level" in after
    assert ahead.options("1") == ({} if known else {"xla_backend_optimization_level": "1"})


def test_smoke_forms_take_little_and_others_full():
    for form, words in (("smoke", "little"), ("laptop", "full")):
        assert configs.load(f"configs/diff_nca.py:{form}").train.effort == words


@pytest.mark.slow
def test_xla_reads_them_after_the_config_was_read():
    """In a process that main began: a flag that XLA does not know ends it, once a program is compiled."""
    program = """
import os
from nca_gen import config, main
from nca_gen.runtime import effort
page = config.load("configs/quickstart.py:smoke")
effort.flags = lambda: "--xla_backend_optimization_level=0 --xla_no_such_flag=1"
effort.spend(page)
import jax
print(jax.numpy.ones(1) + 1)
"""
    environment = os.environ | {"XLA_FLAGS": FLAGS}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode
    assert "xla_no_such_flag" in done.stderr
