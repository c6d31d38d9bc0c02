"""Flags, then the verb: python -m nca_gen.main --config=configs/diff_nca.py --workdir=runs/diff_nca

Everything heavy is imported by the verb that needs it, so that --help and a misspelt flag are answered at once.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from nca_gen import build
from nca_gen import config as configs
from nca_gen.config import override, pages
from nca_gen.errors import UserError, unknown
from nca_gen.io import cache, exports, mirror
from nca_gen.runtime import effort, watch

HELP = """\
modes
  train      train, or resume what the workdir holds; evaluate when due and at the end (default)
  generate   sample from the newest checkpoint of the workdir
  chain      train the stages that a page lists one after the other, each in its folder of the workdir
  evaluate   score the newest checkpoint of the workdir and rewrite its report
  encode     latents of a data set by the trained autoencoder of the workdir, for a model to be trained on
  expand     enlarge a labelled training set by the model of the workdir
  classify   train classifiers on a labelled data set and on its expansions; compare them over folds
  segment    train segmenters on images with label maps, and on generated ones beside them; compare them
  budget     how many steps a budget buys the model, and which learning rate serves it best
  study      one table of several runs: how good, how large, how fast
  readers    serve pairs of a real and a synthetic picture to people who say which is real; report how often they can
  view       serve the plane without an end that the rule of the workdir grows from a seed; what is looked at is grown
  tables     tables of scores, as in URCDM of real slides and generated ones, as in CA-LDM of volumes
  describe   parameters, reach, FLOP and memory of the model; with --for=h100:8 whether it fits there, and for how long
  bench      time and peak memory of a training step and of sampling
  check      read the data set through; say what is in it and what is wrong with it
  export     weights, config, card, and a program that draws without this package, as a folder to pass on;
             with --export.html also a page that grows pictures in a browser

A workdir is the folder of a run, of an export, or zoo:NAME, an automaton that lies in this package (nca_gen/zoo).
Any field is overridden by its path: --config.model.hidden=256 --config.data.patch=96,96
A field of a stage of a chain by its name: --config.autoencoder.train.steps=1000 --config.cells.seed=1
A form of a config is named after a colon, several with commas: --config=configs/fourier_diff_nca.py:c128_h640,smoke
Where the workdir holds a run, --config may be left out: the run's own is used.
"""
VERBS = (
    "train",
    "generate",
    "chain",
    "evaluate",
    "encode",
    "expand",
    "classify",
    "segment",
    "budget",
    "study",
    "readers",
    "view",
    "tables",
    "describe",
    "bench",
    "check",
    "export",
)
USES = ("generate", "evaluate", "expand", "export", "view")  # of what was trained
READS = (*USES, "encode")  # beside the config also weights of the workdir; the others only write there
SAYS = ("describe", "check", "view")  # and write nothing
ALONE = ("readers", "tables")  # that need pictures, and no config
SHORT = ("export", "view", *ALONE)  # whose fields are flags too: --export.path for --config.export.path
FLAGS = ("--config", "--workdir", "--mode", "--samples", "--reference", "--train", "--metrics", "--weights")
FLAGS += ("--stage", "--for", "--json", "--help", "--out")


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
    parser.add_argument(
        "--workdir", metavar="DIR", help="where everything about a run is kept: a folder, or s3://.., gs://.., az://.."
    )
    parser.add_argument("--out", metavar="DIR", help="where results go; where it is left out, the workdir")
    parser.add_argument("--mode", metavar="MODE", default="train", help="what to do, one of the modes below")
    parser.add_argument("--samples", metavar="PATH", help="evaluate: images to score, a folder or an .npz, not a model")
    parser.add_argument("--reference", metavar="PATH", help="evaluate: the real images that --samples are held against")
    parser.add_argument(
        "--train", metavar="PATH", help="evaluate: real images that the generator of --samples has seen"
    )
    parser.add_argument("--metrics", metavar="NAMES", help="evaluate: such as fid,kid:size=100,fid@inception-clean")
    parser.add_argument("--weights", metavar="DIR", help="where the weights of the feature networks lie")
    parser.add_argument("--stage", metavar="NAME", help="chain: begin at this stage")
    parser.add_argument("--for", metavar="KIND[:N]", help="describe: devices, such as h100:8 (a100, v5e, t4, cpu)")
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
    if args.out and args.mode in SAYS:
        raise UserError(f"--out is for what writes files, and --mode={args.mode} writes none")
    if vars(args)["for"] and args.mode != "describe":
        raise UserError("--for is for --mode=describe")
    if args.stage and args.mode != "chain":
        raise UserError("--stage is for --mode=chain")
    if not args.samples and (given := [flag for flag in ("reference", "train") if vars(args)[flag]]):
        raise UserError(f"--{given[0]} goes with --samples=PATH; the sets of a workdir are those of its config")
    if args.mode not in ("describe", "bench", "check") and not (args.workdir or args.samples):
        hint = ", or --samples=PATH --reference=PATH to score images" if args.mode == "evaluate" else ""
        raise UserError(f"--mode={args.mode} needs --workdir=DIR, where the run is kept{hint}")
    if args.samples and (args.config or rest):
        raise UserError(f"{(rest or ['--config'])[0]} is for a model; --samples are scored without a config")
    if args.mode in SHORT:
        rest = [f"--config.{word[2:]}" if word.startswith(f"--{args.mode}.") else word for word in rest]
    if args.weights:
        os.environ["NCA_GEN_WEIGHTS"] = args.weights
    return args, rest


def configure(args: Namespace, rest: list[str]) -> Any:
    """The whole, locked ConfigDict that the flags ask for: of ``--config``, else of the run in ``--workdir``.

    None where none is needed: for images to score, and for a chain, whose stages have one each.
    """
    if args.samples or args.mode == "chain":
        return None
    stored = Path(args.workdir or "", "config.json")
    if args.config:
        config = configs.stated(args.config)
    elif args.workdir and stored.is_file():
        config = configs.saved(stored)
    elif args.workdir and args.mode in USES:
        raise UserError(f"there is no run in {args.workdir}; train first, or correct --workdir")
    elif args.mode in ALONE:
        config = configs.empty()
    else:
        raise UserError(f"name a config with --config=FILE, one of: {pages()}")
    former = [flag for flag in rest if configs.former(flag)]
    config = override(config, [flag for flag in rest if flag not in former], FLAGS, args.mode)
    for flag in former:
        flags = configs.today(config, flag)
        print(f"note: {flag} is {' '.join(flags)} now", file=sys.stderr)
        config = override(config, flags, FLAGS, args.mode)
    if args.metrics:  # of all that have some of their own
        asked = [name for name, section in config.evals.items() if section.get("metrics")]
        config = override(config, [f"--config.evals.{name}.metrics={args.metrics}" for name in asked], FLAGS)
    return config


def folder(args: Namespace, path: str = "") -> None:
    """Makes the folder where results go: ``path``, else ``--out``, else the workdir. ``args.out`` is it from here on.

    Raises UserError where nothing can be written, or nothing was trained.
    """
    workdir, out = args.workdir, path or args.out or args.workdir
    if args.mode in USES and not args.samples and not Path(workdir).is_dir():
        raise UserError(f"there is no workdir {workdir}; train first, or correct --workdir")
    if args.mode in SAYS or out is None:
        return
    if out == workdir and exports.lent(workdir):
        raise UserError(f"{workdir} is not yours to write to; say where results go with --out=DIR")
    if args.mode == "train" and exports.is_export(out):
        raise UserError(f"{out} is an export, which is not trained on; train elsewhere, with --config.train.init={out}")
    flag = "--workdir" if out == workdir and args.mode not in READS else "--out"
    try:
        os.makedirs(out, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot make the folder {out} ({e.strerror}); choose another {flag}") from e
    if not os.access(out, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to the folder {out}; choose another {flag}")
    args.out = out
    if args.mode not in READS:
        args.workdir = out


def run(argv: list[str]) -> int:
    """Does what the flags say. Returns the exit code: 0, 2 for an error of the user's, 130 when interrupted."""
    try:
        args, rest = parse(argv)
        args.rest = rest
        with mirror.place(args.workdir, trains=args.mode in ("train", "chain")) as args.workdir:
            args.workdir = args.workdir and exports.located(args.workdir)
            config = configure(args, rest)
            if config is not None and args.mode != "bench":  # which measures what others run
                effort.spend(config)
            folder(args, config.export.path if args.mode == "export" else "")
            build.verb(args.mode).main(config, args)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def main() -> None:
    """The process: quiet libraries, a compilation cache that outlives it, then :func:`run`.

    One of several is watched by another (:mod:`nca_gen.runtime.watch`).
    """
    if watch.needed(sys.argv, os.environ):
        sys.exit(watch.over([sys.executable, *sys.orig_argv[1:]]))
    watch.tie()
    gc.set_threshold(200_000, 50, 1000)  # tracing makes many small objects that live on
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
