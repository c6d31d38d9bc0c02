"""Golden numbers: what the smoke form of every page gives. test_configs.py compares its runs with golden.json.

PYTHONPATH=. python tests/golden.py

writes the file anew, from new runs: only where numbers are meant to change, and then the commit's message says why.
"""

import json
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "tests" / "golden.json"
PAGES = [  # but those that chain the runs of others
    f"configs/{path.name}" for path in sorted(ROOT.glob("configs/*.py")) if "\ndef chain(" not in path.read_text()
]
CLOCKS = ("step", "time", "images_per_second", "memory_mb")  # of a line of the curve, and no result
LOOSE = {  # relative and absolute tolerance, by the beginning of the name
    "scores/swd": (1e-2, 0.0),  # orders images by their bits: where the last one differs, other patches are drawn
    "samples/pixels": (0.0, 1.0),  # of 255
    "curve/grad_norm": (3e-3, 0.0),  # where the loss is large, steps multiply what was rounded
    "": (1e-4, 1e-6),  # of all others: processors round differently
}

Numbers = dict[str, float | list[float]]


def numbers(workdir: Path) -> Numbers:
    """What a trained workdir holds, by name: parameters, curves, scores, and of what it generated some pixels."""
    found: Numbers = {"parameters": json.loads((workdir / "environment.json").read_text())["parameters"]}
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found |= {f"curve/{name}": [line[name] for line in lines] for name in lines[0] if name not in CLOCKS}
    for page in sorted(workdir.glob("eval/*/*.json")):
        scores = json.loads(page.read_text()).get("scores", {})
        found |= {f"{page.stem}/{name}": score for name, score in scores.items()}
    if paths := sorted(workdir.glob("generated/*/*.png")):
        pixels = np.stack([np.asarray(Image.open(path)) for path in paths]).astype(np.float64)
        some = np.linspace(0, pixels.size - 1, 8).round().astype(int)
        found |= {"samples/mean": pixels.mean(), "samples/std": pixels.std(), "samples/pixels": [*pixels.flat[some]]}
    return found


def differences(now: Numbers, then: Numbers) -> Iterator[str]:
    """A line for every number of ``now`` that is not that of ``then``."""
    for name in sorted(now.keys() | then.keys()):
        a, b = (np.ravel(x[name]).astype(float) if name in x else np.array([]) for x in (now, then))
        tolerance = next(tolerance for start, tolerance in LOOSE.items() if name.startswith(start))
        if a.shape != b.shape or not np.allclose(a, b, *tolerance):
            yield f"{name} was {then.get(name)}, is {now.get(name)}"


def rounded(value: float | list[float]) -> float | list[float]:
    """Six significant digits."""
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return value if isinstance(value, int) or not math.isfinite(value) else float(f"{value:.6g}")


def written(record: dict[str, Numbers]) -> str:
    """JSON with a line for every name."""
    pages = []
    for path, found in record.items():
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(rounded(value))}" for name, value in found.items())
        pages.append(f" {json.dumps(path)}: {{\n{lines}\n }}")
    return "{\n" + ",\n".join(pages) + "\n}\n"


def main() -> None:
    """Trains the smoke form of every page, generates from those that sample, and writes the file."""
    from nca_gen import config, main

    record = {}
    for path in PAGES:
        with tempfile.TemporaryDirectory() as folder:
            for mode in ("train", "generate") if "sample" in config.load(path) else ("train",):
                flags = [f"--config={path}:smoke", f"--workdir={folder}", "--config.mesh.data=1", f"--mode={mode}"]
                if code := main.run(flags):
                    sys.exit(code)
            record[path] = numbers(Path(folder))
    FILE.write_text(written(record))


if __name__ == "__main__":
    import conftest  # noqa: F401  the devices and the compiler of the tests

    main()
