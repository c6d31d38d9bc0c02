"""Flags, then the verb: python -m nca_gen.main --config=configs/diff_nca.py --workdir=runs/diff_nca

Everything heavy is imported by the verb that needs it, so that --help and a misspelt flag are answered at once.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import runpy
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nca_gen.errors import UserError, unknown
from nca_gen.io import cache

HELP = """\
modes
  train      train, or resume what the workdir holds; evaluate when due and at the end (default)
  generate   sample from the newest checkpoint of the workdir
  evaluate   score the newest checkpoint of the workdir and rewrite its report
  describe   parameters, reach, FLOP and memory of the model
  bench      time and peak memory of a training step and of sampling
  check      read the data set through; say what is in it and what is wrong with it

Any field is overridden by its path: --config.model.hidden=256 --config.data.patch=96,96
A form of a config is named after a colon, several with commas: --config=configs/fourier_diff_nca.py:c128_h640,smoke
Where the workdir holds a run, --config may be left out: the run's own is used.
"""
FLAGS = ("--config", "--workdir", "--mode", "--samples", "--reference", "--train", "--metrics", "--weights")
FLAGS += ("--json", "--help")


def parse(argv: list[str]) -> tuple[Namespace, list[str]]:
    """The flags, and the rest as it was written. Raises UserError for an unknown mode or a missing workdir."""
    parser = argparse.ArgumentParser(
        "python -m nca_gen.main",
        usage="%(prog)s --config=FILE[:FORM] --workdir=DIR [--mode=MODE] [--config.FIELD=VALUE ...]\n"
        "       %(prog)s --mode=evaluate --samples=PATH --reference=PATH [--train=PATH] [--metrics=NAME,NAME]",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("--config", metavar="FILE[:FORM]", help="a file of configs/")
    parser.add_argument("--workdir", metavar="DIR", help="where everything about a run is kept")
    parser.add_argument("--mode", metavar="MODE", default="train", help="what to do, one of the modes below")
    parser.add_argument("--samples", metavar="PATH", help="evaluate: images to score, a folder or an .npz, not a model")
    parser.add_argument("--reference", metavar="PATH", help="evaluate: the real images that --samples are held against")
    parser.add_argument(
        "--train", metavar="PATH", help="evaluate: real images that the generator of --samples has seen"
    )
    parser.add_argument("--metrics", metavar="NAMES", help="evaluate: such as fid,kid:size=100,fid@inception-clean")
    parser.add_argument("--weights", metavar="DIR", help="where the weights of the feature networks lie")
    parser.add_argument("--json", action="store_true", help="describe, bench, check, evaluate: JSON, not a table")
    try:
        args, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as e:
        raise UserError(str(e).removeprefix("argument ")) from e
    if args.mode not in VERBS:
        raise unknown("mode", args.mode, VERBS)
    if args.mode != "evaluate" and (
        given := [f for f in ("samples", "reference", "train", "metrics") if vars(args)[f]]
    ):
        raise UserError(f"--{given[0]} is for --mode=evaluate")
    if not args.samples and (given := [flag for flag in ("reference", "train") if vars(args)[flag]]):
        raise UserError(f"--{given[0]} goes with --samples=PATH; the sets of a workdir are those of its config")
    if args.mode in ("train", "generate", "evaluate") and not (args.workdir or args.samples):
        hint = ", or --samples=PATH --reference=PATH to score images" if args.mode == "evaluate" else ""
        raise UserError(f"--mode={args.mode} needs --workdir=DIR, where the run is kept{hint}")
    if args.metrics and not args.samples:
        rest.append(f"--config.eval.metrics={args.metrics}")
    if args.samples and (args.config or rest):
        raise UserError(f"{(rest or ['--config'])[0]} is for a model; --samples are scored without a config")
    if args.weights:
        os.environ["NCA_GEN_WEIGHTS"] = args.weights
    return args, rest


def configure(args: Namespace, rest: list[str]) -> Any:
    """The locked ConfigDict that the flags ask for: of ``--config``, else of the run in ``--workdir``."""
    kept = Path(args.workdir or "", "config.json")
    if args.config:
        config = load(args.config)
    elif args.workdir and kept.is_file():
        config = saved(kept)
    else:
        raise UserError(f"name a config with --config=FILE, one of: {_configs()}")
    return override(config, rest)


def load(spec: str) -> Any:
    """The ConfigDict of ``FILE:form,form``: the file's ``get_config()``, edited by each form, a function of the file.

    Raises UserError for a file or a form that does not exist.
    """
    path, _, forms = spec.partition(":")
    if not Path(path).is_file():
        raise UserError(f"there is no config {path}; name one of: {_configs()}")
    page = runpy.run_path(path, run_name="config")
    known = {k: v for k, v in page.items() if getattr(v, "__module__", "") == "config" and not k.startswith("_")}
    if "get_config" not in known:
        raise UserError(f"{path} is no config: it has no get_config()")
    config = known.pop("get_config")()
    for form in filter(None, forms.split(",")):
        if form not in known:
            raise unknown(f"form of {path}:", form, known)
        known[form](config)
    return config


def saved(path: Path) -> Any:
    """The ConfigDict that a run left behind, with tuples for the lists of JSON: configs hold no lists."""
    from ml_collections import ConfigDict

    def restored(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: restored(v) for k, v in value.items()}
        return tuple(map(restored, value)) if isinstance(value, list) else value

    try:
        return ConfigDict(restored(json.loads(path.read_text())))
    except ValueError as e:
        raise UserError(f"{path} is damaged ({e}); name the config with --config=FILE") from e


def override(config: Any, rest: list[str]) -> Any:
    """``config``, locked, with every ``--config.a.b=value`` (or ``--config.a.b value``) of ``rest`` applied.

    Raises UserError for a field that does not exist, a value of another type, and whatever is no override.
    """
    fields = dict(_fields("config", config))
    words = iter(rest)
    for word in words:
        if not word.startswith("-"):
            raise UserError(f"unexpected argument {word!r}; flags are written --name=value")
        path, equals, text = word.removeprefix("--").partition("=")
        if not path.startswith("config."):
            raise unknown("flag", word.partition("=")[0], FLAGS)
        if path not in fields:
            section, _, name = path.rpartition(".")
            namesakes = [f for f in fields if f.endswith(f".{name}")]
            siblings = [f for f in fields if f.startswith(f"{section}.")]
            raise unknown("field", path, namesakes or siblings or fields)
        if not equals and (text := next(words, None)) is None:
            raise UserError(f"{path} needs a value, like --{path}={fields[path]}")
        config.update_from_flattened_dict({path.removeprefix("config."): _value(path, text, fields[path])})
    return config.lock()


def _configs() -> str:
    return ", ".join(sorted(map(str, Path("configs").glob("*.py"))))


def _fields(path: str, config: Any) -> Iterator[tuple[str, Any]]:
    """Every leaf with its dotted path."""
    for name, value in config.items():
        inner = f"{path}.{name}"
        yield from _fields(inner, value) if hasattr(value, "items") else [(inner, value)]


def _value(path: str, text: str, old: Any) -> Any:
    """``text`` as a value of ``old``'s type: anything is a str, 1e5 an int, 3 a float, true a bool, 64,64 a tuple."""
    if isinstance(old, str):
        return text
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
        if isinstance(old, (int, float)) and type(old)(value) == value:
            value = type(old)(value)
    except (SyntaxError, ValueError, TypeError, OverflowError):
        value = tuple(text.split(",")) if isinstance(old, tuple) else text
    if isinstance(old, tuple):
        value = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    members = (*value, *old) if isinstance(old, tuple) else (value, old)
    if old is not None and len(set(map(type, members))) > 1:
        raise UserError(f"{path} is of type {type(old).__name__}, like {old!r}; got {text!r}")
    return value


def writable(workdir: str) -> str:
    """``workdir``, made where missing. Raises UserError where nothing can be written."""
    try:
        os.makedirs(workdir, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot make the workdir {workdir} ({e.strerror}); choose another --workdir") from e
    if not os.access(workdir, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to the workdir {workdir}; choose another --workdir")
    return workdir


def trained(workdir: str) -> str:
    """``workdir``. Raises UserError where there is none."""
    if not Path(workdir).is_dir():
        raise UserError(f"there is no workdir {workdir}; train first, or correct --workdir")
    return writable(workdir)


def train(config: Any, args: Namespace) -> None:
    workdir = writable(args.workdir)
    from nca_gen.train import train

    train(config, workdir)


def generate(config: Any, args: Namespace) -> None:
    workdir = trained(args.workdir)
    from nca_gen.generate import generate

    generate(config, workdir)


def evaluate(config: Any, args: Namespace) -> None:
    workdir = args.workdir and (writable if args.samples else trained)(args.workdir)
    from nca_gen import evaluate

    # With --json, standard output is for machines only; the table goes beside it.
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        if args.samples:
            specs = args.metrics and args.metrics.split(",")
            facts = evaluate.compare(args.samples, args.reference, args.train, specs, workdir)
        else:
            facts = evaluate.main(config, workdir)
    if args.json:
        print(json.dumps(facts, indent=2))


def describe(config: Any, args: Namespace) -> None:
    from nca_gen.describe import describe

    describe(config, json=args.json)


def bench(config: Any, args: Namespace) -> None:
    workdir = args.workdir and writable(args.workdir)
    from nca_gen.bench import bench

    bench(config, workdir, args.json)


def check(config: Any, args: Namespace) -> None:
    from nca_gen.check import check

    # With --json, standard output is for machines only; the table goes beside it.
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        report = check(config)
    if args.json:
        print(json.dumps(report, indent=2))


VERBS = {f.__name__: f for f in (train, generate, evaluate, describe, bench, check)}


def run(argv: list[str]) -> int:
    """Does what the flags say. Returns the exit code: 0, 2 for an error of the user's, 130 when interrupted."""
    try:
        args, rest = parse(argv)
        VERBS[args.mode](None if args.samples else configure(args, rest), args)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def main() -> None:
    """The process: quiet libraries, a compilation cache that outlives it, then :func:`run`."""
    compiled = cache.folder("jax")
    try:
        compiled.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(compiled))
    except OSError:
        pass  # a home that cannot be written: every run compiles anew
    # On CPU a step is twice as fast with the batch dealt to one device a core as with every operation dealt to all.
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(max(n for n in (1, 2, 4, 8) if n <= cores)))
    # What XLA's C++ cannot do reaches us as an exception; beside it, it logs pages for its developers.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
