"""Checks types with ty: no complaint in the rooms of STRICT, and in the rest no more than launch/typecheck.txt allows.

python launch/typecheck.py            exits with 1 where there are more
python launch/typecheck.py --lower    writes the number of today, where it is lower

The number is of a version of Python, since each has its own numpy in the lock, and that its own stubs.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STRICT = ("contracts.py", "arrays.py", "ca", "diffusion", "tasks", "runtime")
ALLOWED = Path(__file__).with_suffix(".txt")
LINE = re.compile(r"^(?P<path>\S+?):\d+:\d+: (error|warning)\[.*", re.MULTILINE)


def complaints() -> list[re.Match[str]]:
    """Runs ty over the package and the contracts' test; a match for each line of its output."""
    command = [Path(sys.executable).with_name("ty"), "check", "--output-format", "concise", "--python", sys.prefix]
    command += ["nca_gen", "tests/test_contracts.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        sys.exit(done.stderr)
    return list(LINE.finditer(done.stdout))


def main() -> int:
    """Prints what is wrong; 0 where nothing is."""
    found, allowed = complaints(), dict(line.split() for line in ALLOWED.read_text().splitlines())
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    rest = int(allowed[version])
    strict = {f"nca_gen/{room}" for room in STRICT} | {"tests/test_contracts.py"}
    inside = [
        line for line in found if any(line["path"] == room or line["path"].startswith(f"{room}/") for room in strict)
    ]
    outside = [line for line in found if line not in inside]
    shown = inside + (outside if len(outside) > rest else [])
    print(
        "\n".join(
            [
                *(line[0] for line in shown),
                f"types: {len(inside)} in {', '.join(STRICT)} (0 are allowed), {len(outside)} elsewhere ({rest})",
            ]
        )
    )
    if "--lower" in sys.argv[1:] and len(outside) < rest:
        allowed[version] = str(len(outside))
        ALLOWED.write_text("".join(f"{python} {number}\n" for python, number in allowed.items()))
    return int(bool(shown))


if __name__ == "__main__":
    sys.exit(main())
