"""Sections of a config that configure the program itself, and not what is learned: their fields and defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Ge, Gt, Interval, Le, Len, MaxLen, MinLen, Predicate

from nca_gen.errors import UserError, unknown
from nca_gen.ranges import Count, Natural, OneOf, Positive, Seed, Share, SomeOf

Split = Annotated[str, OneOf(("train", "val", "test"))]
MIRRORS = ("all", "none", "horizontal", "vertical", "depth")
Flips = Annotated[str, SomeOf(MIRRORS)]
Views = Annotated[str, SomeOf((*MIRRORS, "dihedral"))]
LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "gpl-3.0", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nd-4.0")
LICENCES += ("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "odbl", "openrail", "other")
Dtype = Annotated[str, OneOf(("float32", "bfloat16"))]
Sides = Annotated[tuple[Count, ...], MaxLen(3)]


def span(steps: str) -> tuple[int, int] | None:
    """The first and the last of the steps A:B; None of "". Raises UserError for anything else."""
    if not steps:
        return None
    first, _, last = steps.partition(":")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise UserError(f"{steps!r} are no steps: write FIRST:LAST, such as 10:15")
    return int(first), int(last)


def spans(steps: str) -> bool:
    """Whether :func:`span` takes it."""
    span(steps)
    return True


UNITS = {"steps": 1.0, "min": 60.0, "flop": 1.0}  # in steps, seconds, and floating-point operations of products


class Amount(NamedTuple):
    """``size`` of ``unit``: steps, seconds ("min") or FLOP of matrix products ("flop")."""

    size: float
    unit: str


def amount(text: str) -> Amount:
    """Reads "2000steps", "30min", "1e15flop". Raises UserError for anything else."""
    found = re.fullmatch(rf"([0-9.]+(?:e[+-]?\d+)?)({'|'.join(UNITS)})", text)
    size = float(found[1]) if found and found[1].count(".") < 2 else 0.0
    if not found or not 0 < size < float("inf"):
        raise UserError(f"config.budget.of={text}: give a number and a unit, such as 2000steps, 30min or 1e15flop")
    return Amount(size * UNITS[found[2]], found[2])


def amounts(text: str) -> bool:
    """Whether :func:`amount` takes it, or it is empty."""
    return not text or bool(amount(text))


def named(word: str) -> bool:
    """Whether it is NAME=DIR. Raises UserError for anything else."""
    name, _, path = word.partition("=")
    if not (name.strip() and path):
        raise UserError(
            f"{word!r} is no folder with its name: write NAME=DIR, several with commas; where a DIR has a comma in it, "
            "as words of Python in quotes, ('NAME=DIR',)"
        )
    return True


OUTLINES = ("dice", "iou", "mad")  # figures of nca_gen.metrics.segmentation


def outline(word: str) -> bool:
    """Whether it is a figure of a segmentation, NAME or NAME:CLASS+CLASS. Raises UserError for anything else."""
    name, colon, classes = word.partition(":")
    if name not in OUTLINES:
        raise unknown("figure", name, OUTLINES)
    if colon and not all(one.isdecimal() for one in classes.split("+")):
        raise UserError(f"{word}: classes are numbers joined by +, such as {name}:1+2")
    return True


Outline = Annotated[str, Predicate(outline)]
INCEPTIONS = ("inception", "inception-pytorch", "inception-clean", "inception-stylegan", "inception-torchmetrics")
EXTRACTORS = (*INCEPTIONS, "inception-random", "vgg16", "resnet34", "resnet50", "dinov2-vits14", "dinov2-vitb14")
EXTRACTORS += ("radimagenet-resnet50", "radimagenet-random")
EXTRACTORS += ("clip-vitl14-336",)  # of nca_gen.metrics.features, which is loaded where something is scored
Extractor = Annotated[str, OneOf(EXTRACTORS)]


class Train(NamedTuple):
    """``config.train``: how long, on how many images a step, what is left behind how often.

    ``log_every``, ``checkpoint_every``: in steps, and at the end; 0 is at the end alone. The newest ``keep``
    checkpoints stay. ``on_divergence``: "stop" or "rollback", at the most ``max_rollbacks`` times, to the last good
    checkpoint. ``divergence``: a loss above so many times the median of the last 20 lines is one; 0 is off, and only
    what is not finite is. ``init``: a trained part of the same shapes (the name of one of ``config.parts``, a
    workdir, or whatever else :func:`nca_gen.runtime.run.open_run` opens), with whose weights training begins; "" begins
    with random ones.
    ``profile``: the steps FIRST:LAST of which a trace is written (:mod:`nca_gen.runtime.profile`). ``cache``: where
    compiled programs are kept, for "user" or in the "workdir", with which they move to another machine. ``effort``: how
    hard the compiler works; "little" is for runs of a few steps, which wait for nothing else: programs are there in
    less than half the time and are slower, with other last digits (:mod:`nca_gen.runtime.effort`).
    """

    steps: Count
    batch: Count
    log_every: Natural = 50
    checkpoint_every: Natural = 1000
    keep: Count = 3
    on_divergence: Annotated[str, OneOf(("stop", "rollback"))] = "stop"
    max_rollbacks: Natural = 3
    divergence: Literal[0] | Annotated[float, Gt(1)] = 0.0
    init: str = ""
    profile: Annotated[str, Predicate(spans)] = ""
    cache: Annotated[str, OneOf(("user", "workdir"))] = "user"
    effort: Annotated[str, OneOf(("full", "little"))] = "full"


class Drawing(NamedTuple):
    """``config.sample``, beside the settings of the sampler: which samples, and how many.

    ``labels``: the classes that they take in turn; () for all. ``n``, in batches of ``batch``. ``size``: in the units
    of the data that the model learned; () for that of a patch. ``large``: of one more that evaluation shows; () none.
    """

    labels: tuple[Natural, ...] = ()
    n: Count = 16
    batch: Count = 64
    size: Sides = ()
    large: Sides = ()


class Patches(NamedTuple):
    """Of every ``config.data``: the sides ``patch`` of what is cut out for training; ``flips``, the axes that are
    mirrored at random: "all", "none", or some of "horizontal", "vertical", "depth", joined by "+"; or "dihedral", all 8
    views of a square patch. ``slices``: of volumes, each slice along D is an image of its own."""

    patch: Annotated[tuple[Count, ...], Len(2, 3)]
    flips: Views | bool = "all"
    slices: bool = False


class Turn(NamedTuple):
    """Of every section of ``config.evals``: it is asked ``every`` so many steps; 0 only by --mode=evaluate."""

    every: Natural = 0


class Held(NamedTuple):
    """``config.held``: what samples are held against: ``n`` patches of ``split``, and ``train`` of training.

    Drawn by ``config.seed`` without replacement, so at most as many as there are; ``n`` samples are drawn all the same.
    """

    split: Split = "test"
    n: Count = 256
    train: Count = 4096


class Mesh(NamedTuple):
    """``config.mesh``: samples over ``data`` devices (-1: all that is left), the rows of an image over ``space``.

    ``distributed``: join the other hosts by what the scheduler says (:func:`nca_gen.runtime.mesh.connect`).
    ``patience``: seconds in which all of them have to come. ``shard``: whether parameters, moments and average are cut
    over all devices, "always", "never", or "auto" where they take 4 GB or more (:func:`nca_gen.devices.laid`); sums are
    then rounded in another order.
    """

    data: Literal[-1] | Count = -1
    space: Count = 1
    distributed: bool = False
    patience: Count = 60
    shard: Annotated[str, OneOf(("auto", "always", "never"))] = "auto"


class Bench(NamedTuple):
    """``config.bench``: what --mode=bench measures.

    ``what``: names of :data:`nca_gen.verbs.bench_parts.PARTS`. A row is the median of ``rounds`` after a warm-up, of
    ``batch`` images. ``apart``: one process at a time, started anew for every turn, where memory does not hold all that
    are compared. ``dtypes`` of ours beside a peer. ``peer_python``: an interpreter that has PyTorch, "" for this one.
    ``peer``: its ``script``, which takes the ``fields`` of config.model, in each of its ``forms`` (changed fields by
    what is added to the name), and perhaps ``targets`` of the ratios of ``seconds`` and ``memory_mb``; of features of
    images, ``features_peer``. ``rivals``: sections ``model`` by name. ``against``: another checkout of this
    program, or a script that takes what :mod:`nca_gen.verbs.bench_worker` does.
    """

    what: tuple[str, ...] = ("model",)
    batch: Count = 2
    rounds: Count = 3
    apart: bool = False
    dtypes: Annotated[tuple[Dtype, ...], MinLen(1)] = ("float32", "bfloat16")
    peer_python: str = ""
    peer: Mapping[str, Any] = {}
    features_peer: str = ""
    rivals: Mapping[str, Any] = {}
    against: str = ""


class Classify(NamedTuple):
    """``config.classify``: which classifiers --mode=classify trains and compares.

    ``folds`` by patient of the splits ``of``, drawn with ``seed`` (as --mode=expand draws them, of "train"); where a
    data set brings its own (``config.data.fold``), those. 1 takes the data set's split: trained on "train", validated
    on ``config.held.split``. Each is trained ``repeats`` times, from other seeds. ``expansions``: folders that
    --mode=expand wrote, a row each, with ``augment`` on top; "{fold}" in one stands for the fold's number.
    Probabilities are averaged over what ``pool`` names ("image", "eye", "patient") before anything is measured;
    ``eye`` is a pattern for the side in a file's name, "" for :data:`nca_gen.verbs.classify_tables.SIDE`. ``draws`` are
    the bootstrap's. ``keep`` leaves the checkpoints of finished trainings.
    """

    folds: Count = 5
    of: Annotated[tuple[Split, ...], MinLen(1)] = ("train",)
    repeats: Count = 1
    seed: Seed = 0
    augment: Annotated[str, OneOf(("none", "geometric"))] = "geometric"
    expansions: tuple[str, ...] = ()
    pool: Annotated[str, OneOf(("image", "eye", "patient"))] = "image"
    eye: str = ""
    draws: Count = 2000
    keep: bool = False


class Segment(NamedTuple):
    """``config.segment``: which segmenters --mode=segment trains and compares.

    ``folds`` by patient of the split "train", drawn with ``seed``; 1 takes the data set's split: trained on "train",
    judged on ``config.held.split``. Each is trained ``repeats`` times, from other seeds. ``expansions``: what is added
    to the real training images, a row each, as NAME=DIR, several with commas; DIR has generated images or volumes in
    ``images`` and their maps in ``label_maps`` (:func:`nca_gen.data.mixture.generated`), "{fold}" in it stands for the
    fold's number. Of them so many join as ``share`` times the real ones, the first by name; 0 for all. ``resolutions``:
    for each number a row of real images at most so many places a side, and brought back: those that are trained on,
    with their maps, and those that are judged, by their maps as they are. ``figures``: the
    columns, :func:`nca_gen.metrics.segmentation.figure`. ``draws`` are the bootstrap's. ``keep`` leaves the checkpoints
    of finished trainings.
    """

    folds: Count = 1
    repeats: Count = 3
    seed: Seed = 0
    expansions: tuple[Annotated[str, Predicate(named)], ...] = ()
    share: Annotated[float, Ge(0)] = 2.0
    resolutions: tuple[Count, ...] = ()
    figures: Annotated[tuple[Outline, ...], MinLen(1)] = ("dice", "iou")
    draws: Count = 2000
    keep: bool = False


class Expand(NamedTuple):
    """``config.expand``: how --mode=expand enlarges a labelled training set.

    ``times`` pictures for every label vector of the train split, where ``fold`` is -1; else of all patients but those
    of that fold of ``folds`` (by patient, of all splits with ``split_seed``, as --mode=classify makes them).
    ``quantile`` and ``tries``: what is too near to the train split, which the generator has seen, is drawn again, see
    :mod:`nca_gen.pipelines.expand`. ``name``: of the folder in the workdir. Of a pipeline that follows label maps
    ``times`` volumes for every map of the train split; then ``name`` counts of the others, and ``fold`` is -1.
    """

    name: Annotated[str, MinLen(1)] = "expanded"
    times: Count = 5
    fold: Annotated[int, Ge(-1)] = -1
    folds: Annotated[int, Ge(2)] = 5
    split_seed: int = 0
    quantile: Share = 0.05
    tries: Count = 10


class Encode(NamedTuple):
    """``config.encode``: how --mode=encode makes latents of a data set.

    ``weights``: a published file, "" for the newest checkpoint of the workdir. ``flips``: every image is encoded
    mirrored too, see :mod:`nca_gen.data.flips`. ``batch`` images at a time, ``shard`` images a file. ``patch``: sides
    of what is encoded at once, () for those of ``config.data.patch``. ``classes``: of the label maps of the data set,
    whose shares of each place latents then hold; 0 leaves them out.
    """

    weights: str = ""
    patch: Sides = ()
    classes: Natural = 0
    flips: Flips = "horizontal"
    batch: Count = 8
    shard: Count = 1024


def untrained(word: str) -> bool:
    """Whether it is a task of :mod:`nca_gen.verbs.study_tasks`. Raises UserError for anything else."""
    if not re.fullmatch(r"hole|x[248]|[1-9]\d*(x[1-9]\d*)+", word):
        raise UserError(f"{word!r} is no task: choose of hole, x2, x4, and a size such as 96x96")
    return True


class Budget(NamedTuple):
    """``config.budget``: what a run may cost, so that rivals cost the same; --mode=budget reckons, training heeds it.

    ``of``: a number and a unit: "2000steps", "30min" of training steps on this machine, "1e15flop" of matrix products;
    "" for none, and config.train.steps holds. ``rates``: factors of the page's learning rates, each tried for ``share``
    of the steps; of one alone nothing is tried. ``like``: a workdir whose steps and rate are taken as they are.
    """

    of: Annotated[str, Predicate(amounts)] = ""
    rates: Annotated[tuple[Annotated[float, Gt(0)], ...], MinLen(1)] = (1.0,)
    share: Annotated[float, Gt(0), Le(1)] = 0.2
    like: str = ""


class Study(NamedTuple):
    """``config.study``: which runs --mode=study compares, and how.

    ``n`` samples of each of ``runs`` (workdirs; a path that begins with a dot is seen from the study's), under the
    labels of as many real images of ``split``, which they are held against, and ``train`` training images. Runs that
    differ in their seed alone are one row. ``metrics``: () for those of :func:`nca_gen.verbs.study.metrics`; of those
    whose network has no weights here ``stand_ins`` takes one with random weights, and calls the score by another name.
    ``halves``: how many random halves of the images say how far a score may be off; 0 for none. ``tasks``: what is
    tried without training for it: "hole", "x2", or a size such as "96x96".
    """

    runs: tuple[str, ...] = ()
    n: Count = 256
    train: Count = 1080
    split: Split = "test"
    metrics: tuple[str, ...] = ()
    stand_ins: bool = False
    halves: Literal[0] | Annotated[int, Ge(2)] = 0
    tasks: tuple[Annotated[str, Predicate(untrained)], ...] = ()


class Readers(NamedTuple):
    """``config.readers``: the study of --mode=readers; ``--readers.real`` is short for ``--config.readers.real``, etc.

    ``real``, ``synthetic``: folders of pictures or slides; may be left out once the study is prepared. ``pairs`` that a
    reader sees, 0 for as many as the smaller folder has. All pictures get one ``size`` (height, width), () for the
    least of all, by ``fit``: "crop" cuts out their middles, "resize" reduces them; "" where they are of one size. Tiles
    are PNG, or JPEG where ``quality`` is above 0, a third as long. ``host``: "0.0.0.0" for other machines too,
    on an open network behind a proxy that encrypts; ``port``: 0 for any that is free. ``serve``: false writes the
    report, lists the links of readers and ends.
    """

    real: str = ""
    synthetic: str = ""
    pairs: Annotated[int, Interval(ge=0, le=9999)] = 0
    fit: Annotated[str, OneOf(("", "crop", "resize"))] = ""
    size: Annotated[tuple[Count, ...], MaxLen(2)] = ()
    quality: Annotated[int, Interval(ge=0, le=100)] = 0
    host: str = "127.0.0.1"
    port: Annotated[int, Interval(ge=0, le=65535)] = 8080
    serve: bool = True


class View(NamedTuple):
    """``config.view``: how --mode=view serves the plane that a rule grows; ``--view.port`` is short for
    ``--config.view.port``, and so on. With ``--config.generate.name=window`` the fields of that hold, too.

    ``levels``: how often it may be halved; a tile of level l takes 4^l tiles to be grown. ``host``: "0.0.0.0" for other
    machines too, which may then let this one grow whatever they look at; ``port``: 0 for any that is free.
    """

    levels: Annotated[int, Interval(ge=0, le=8)] = 2
    host: str = "127.0.0.1"
    port: Annotated[int, Interval(ge=0, le=65535)] = 8080


class Tables(NamedTuple):
    """``config.tables``: what --mode=tables scores; ``--tables.real`` is short for ``--config.tables.real``, and so on.

    ``real``: a folder of slides. ``generated``: what is held against them, as NAME=DIR, several with commas; folders of
    slides, or of images of the size of a patch. ``halves``: all are held against one half of the real patients, and the
    other half is a row too, which says what can be reached; false takes all real slides, and there is no such row.
    ``n`` patches of ``patch`` pixels at each of so many ``magnifications``, from the full size on each coarser by
    ``factor``; of places of which a share of ``tissue`` is stained. ``crops``: patches of pFID. ``fid_by``, ``ip_by``:
    extractors of FID and pFID, and of IP and IR, whose balls reach to the ``k``-th neighbour.

    Where ``real`` holds volumes, ``generated`` does too, and these are their tables (CA-LDM's): ``fid_by`` is the
    extractor of the FID of slices, ``volume_by`` that of FID-2.5D ("" leaves it out), in voxels of ``mm``. Of every
    number of ``resolutions`` there is a row too, of real volumes that are brought to so many voxels a side and back.
    """

    real: str = ""
    generated: tuple[Annotated[str, Predicate(named)], ...] = ()
    halves: bool = True
    n: Count = 10_000
    crops: Count = 50_000
    patch: Annotated[int, Ge(16)] = 1024
    magnifications: Annotated[int, Interval(ge=1, le=9)] = 3
    factor: Annotated[int | float, Gt(1)] = 6.25
    tissue: Share = 0.1
    fid_by: Extractor = "inception"
    ip_by: Extractor = "vgg16"
    k: Count = 3
    volume_by: Annotated[str, OneOf(("", *EXTRACTORS))] = "radimagenet-resnet50"
    mm: Positive = 1.0
    resolutions: tuple[Count, ...] = ()


class Export(NamedTuple):
    """``config.export``: what --mode=export writes; ``--export.path`` is short for ``--config.export.path``, and so on.

    ``path``: the folder, "" for ``export`` in the workdir. ``size``: of what the sampler draws, in the units of the
    data that the model learned; () for ``config.sample.size``. ``licence``: of the weights, as a hub spells it; "" for
    that of the data. ``name``: of the model on its card; "" for that of the folder. ``dtype``: of the weights in the
    files, "float16" for half the room; they are rounded to it and then used in float32. ``html``: whether a page goes
    along that grows pictures in a browser, without a server (:mod:`nca_gen.verbs.export_page`).
    """

    path: str = ""
    size: Sides = ()
    licence: Annotated[str, OneOf(("", *LICENCES))] = ""
    name: str = ""
    dtype: Annotated[str, OneOf(("float32", "float16"))] = "float32"
    html: bool = False
