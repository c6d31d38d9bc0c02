"""What every part of this house can be asked: one page of Protocols, the first file to read.

A system that differs by structure is a model file (:class:`Denoiser`), one that differs by numbers is a page of
configs/, one that chains trained parts is a :class:`Pipeline`. What a contract leaves out nobody may ask; what only
some models can do has a contract of its own (:class:`Local`, :class:`Heir`, :class:`Listener`, :class:`Automaton`,
:class:`Aging`, :class:`Portable`), and ``isinstance`` tells them apart.

Axes, as in :mod:`nca_gen.arrays`: ``B`` batch, ``*S`` any number of spatial axes of cells, ``*T`` of pixels, ``C``
channels, ``K`` classes. A key is a typed threefry key array, one key a sample. Everything here is pure: the same
arguments give the same arrays, under ``jit`` and on any number of devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key, Num, PyTree, UInt32

from nca_gen.arrays import Coords, coords
from nca_gen.errors import UserError

Condition = dict[str, Array] | None
"""What a network is told beside the image: None is nothing at all, else fields by name, each with the batch first.

"label" [B, K] columns of 0 and 1, or a grade's one-hot row; zeros are the null condition. "image" [B, *S, C] a picture
of the same grid. "map" [B, *S, K] shares of the classes of a label map in each cell; the null condition then keeps a
picture "image" beside it. "level" [B] how noisy that picture is. "low" [B, *S, C] a smaller version of the image
itself, enlarged to its grid, in noise of the log-SNR "low_log_snr" [B]; the null condition keeps both. Others are for
the model that reads them.
"""

Time = Num[Array, " b"]
"""A time of the process, one a sample or one for all: an index of a discrete process, a real number of another."""


@runtime_checkable
class Prediction(Protocol):
    """In which coordinate of the pair (x0, eps) a network speaks; members of :mod:`nca_gen.diffusion.predictions`.

    ``a`` and ``s`` are the levels of x_t = a x0 + s eps and broadcast against the images.
    """

    @property
    def target(self) -> Callable[..., Array]:
        """(x0, eps, a, s) -> what the network has to learn."""
        ...

    @property
    def x0(self) -> Callable[..., Array]:
        """(prediction, x_t, a, s) -> the clean image that it implies."""
        ...


@runtime_checkable
class Process(Protocol):
    """q(x_t | x0) = N(a_t x0, s_t^2) and its clock: all that samplers and tasks know of time.

    :mod:`nca_gen.diffusion.discrete` (a table of T levels) and :mod:`nca_gen.diffusion.continuous` (log-SNR; the
    straight path of rectified flow) satisfy it. Times grow with the noise; any time above 0 is noisy.
    """

    @property
    def predict(self) -> Prediction:
        """The coordinate in which the network speaks."""
        ...

    @property
    def span(self) -> float:
        """What the absolute value of :meth:`told` does not exceed, for networks that read a fraction of it."""
        ...

    def levels(self, t: Time) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
        """(a_t, s_t): signal and noise level, (1, 0) at the clean end."""
        ...

    def times(self, n: int) -> Num[np.ndarray, " {n}+1"]:
        """``n`` descending times to sample at and, last, the clean end. UserError for an ``n`` that it has not."""
        ...

    def draw(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Time:
        """Random times to train at, spread evenly over ``shape``."""
        ...

    def told(self, t: Time) -> Num[Array, " b"]:
        """The number that a network reads at t, in [-span, span]."""
        ...

    def weight(self, t: Time) -> Float[Array, " b"]:
        """The weight of the loss at t."""
        ...

    def tag(self, t: Time) -> UInt32[Array, " b"]:
        """Names the randomness at t: equal for equal times, different for different ones."""
        ...


class Place(NamedTuple):
    """Where the cells of a call lie.

    ``at``: their coordinates, an integer array per axis, broadcastable together. ``extent``: sides of the whole, in
    cells; None of a plane that has no end, whose coordinates may be negative. ``whole``: what a tile must be told of
    the rest (:class:`Listener`); None where the call sees all of it.
    """

    at: Coords
    extent: tuple[int, ...] | None
    whole: Any = None

    @property
    def sides(self) -> tuple[Any, ...]:
        """``extent``, for cells that know where in the whole they lie. Raises UserError where it has no end."""
        if self.extent is None:
            raise UserError(
                "the cells of this model know where in the whole picture they lie, and a plane without an end is no "
                "whole; choose config.generate.name=gigapixel, or a model whose cells are alike everywhere"
            )
        return self.extent

    @classmethod
    def of(cls, x: Float[Array, "B *S C"]) -> Place:
        """The place of cells that are the whole."""
        return cls(coords(x.shape[1:-1]), x.shape[1:-1])


@runtime_checkable
class Denoiser(Protocol):
    """A network that says from x_t what x0 (or the noise) was. A frozen dataclass ``Model`` of :mod:`nca_gen.models`.

    ``reads``: channels of x_t. ``predicts``: channels of what it says, ``reads``, or 2 ``reads`` where it also knows
    the variance of a step (:mod:`nca_gen.diffusion.variance`). ``conditions``: the fields of a :data:`Condition` that
    it can be told, and the channels of each; empty for an unconditional model. ``ndim``: spatial axes that it takes.
    """

    @property
    def reads(self) -> int:
        """Channels of x_t."""
        ...

    @property
    def predicts(self) -> int:
        """Channels of what it says: ``reads``, or twice as many with a variance."""
        ...

    @property
    def conditions(self) -> Mapping[str, int]:
        """Channels of each field of a condition that it can be told."""
        ...

    @property
    def ndim(self) -> int:
        """Spatial axes that it takes."""
        ...

    def init(self, key: Key[Array, ""]) -> PyTree:
        """Parameters before training."""
        ...

    def apply(
        self,
        params: PyTree,
        x: Float[Array, "B *S C"],
        told: Num[Array, " b"],
        cond: Condition,
        memory: Any,
        key: Key[Array, " B"],
        place: Place | None = None,
    ) -> tuple[Float[Array, "B *S O"], Any]:
        """The prediction at x_t, and what this step hands to the next; () for nothing.

        ``told``: :meth:`Process.told`, one a sample or one for all. ``memory``: what the step before handed on, () at
        the first. ``place`` None: ``x`` is the whole.
        """
        ...

    def inference(self) -> Denoiser:
        """The model where no gradient is taken, equal and perhaps faster; itself by default."""
        ...


@runtime_checkable
class Local(Denoiser, Protocol):
    """A denoiser whose cells hear ``halo`` cells far in a call: tiles, devices and holes ask this and nothing else.

    ``halo`` None: in this setting every cell depends on the whole. Beside the halo a :class:`Listener` hears
    ``Place.whole``. ``border``: what lies beyond the edge; "wrap" makes a torus.
    """

    @property
    def halo(self) -> int | None:
        """How far a call hears, in cells; None: as far as the whole reaches."""
        ...

    @property
    def border(self) -> str:
        """What lies beyond the edge."""
        ...

    def bordered(self, border: str) -> Local:
        """The same cells with another ``border``."""
        ...


@runtime_checkable
class Listener(Local, Protocol):
    """A local denoiser that also hears one summary of the whole, a sum over tiles (FourierDiff-NCA's spectrum)."""

    def share(self, x: Float[Array, "B *S C"], place: Place, core: Num[Array, "n 2"]) -> Float[Array, "B *K D"]:
        """What the cells from ``core[:, 0]`` to ``core[:, 1]`` (coordinates of the whole) add to the summary."""
        ...

    def heard(self, params: PyTree, total: Float[Array, "B *K D"], told: Num[Array, " b"]) -> Any:
        """``Place.whole`` for every tile, from the sum of all shares."""
        ...


@runtime_checkable
class Heir(Denoiser, Protocol):
    """A denoiser whose steps hand something on (GeCA's genes): a NamedTuple of arrays or None, which is born anew."""

    def newborn(self, x: Float[Array, "B *S C"], key: Key[Array, " B"], place: Place | None = None) -> Any:
        """The memory before the first step."""
        ...


@runtime_checkable
class Automaton(Denoiser, Protocol):
    """A denoiser that is ``steps`` steps of one rule of cells, and can take more or fewer."""

    @property
    def steps(self) -> int:
        """Steps of the cells in a call."""
        ...

    def grown(self, steps: int) -> Automaton:
        """The same cells, ``steps`` steps old when they are asked."""
        ...

    def growth(
        self, params: PyTree, x: Float[Array, "B *S C"], told: Num[Array, " b"], cond: Condition, key: Key[Array, " B"]
    ) -> Float[Array, "n B *S O"]:
        """What the cells say before the first step of a call and after each."""
        ...


@runtime_checkable
class Aging(Automaton, Protocol):
    """An automaton that tells in one call what its cells say at an age on the way, beside what they say at the end."""

    def aging(
        self,
        params: PyTree,
        x: Float[Array, "B *S C"],
        told: Num[Array, " b"],
        cond: Condition,
        memory: Any,
        key: Key[Array, " B"],
        age: Int[Array, " a"],
        place: Place | None = None,
    ) -> tuple[Float[Array, "B *S O"], Float[Array, "B *S O"], Any]:
        """What the cells say after ``age`` steps, one number a sample or one for all, and what ``apply`` returns."""
        ...


@runtime_checkable
class Portable(Automaton, Protocol):
    """An automaton that a program of another language can compute from its parameters and a few facts."""

    def portable(self) -> Mapping[str, Any]:
        """What that program, ``report/templates/rule.js``, must know beside the parameters: numbers, words and lists.

        Raises UserError where the cells are told more than it knows of.
        """
        ...


@runtime_checkable
class Autoencoder(Protocol):
    """A network to a smaller grid and back; ``factor`` pixels a side become one place of ``latent_channels``."""

    @property
    def factor(self) -> int:
        """Pixels a side of a place of the latent."""
        ...

    @property
    def image_channels(self) -> int:
        """Channels of the images."""
        ...

    @property
    def latent_channels(self) -> int:
        """Channels of the latent."""
        ...

    def init(self, key: Key[Array, ""]) -> PyTree:
        """Parameters before training."""
        ...

    def encode(self, params: PyTree, image: Float[Array, "B *T C"]) -> tuple[Array, Array]:
        """Mean and log-variance of the latent."""
        ...

    def decode(self, params: PyTree, z: Float[Array, "B *S L"]) -> Float[Array, "B *T C"]:
        """The image of a latent."""
        ...


@runtime_checkable
class Variational(Autoencoder, Protocol):
    """An autoencoder that says how probable an image is: all that an evidence lower bound asks for."""

    def outputs(self, params: PyTree, z: Float[Array, "B *S L"]) -> Float[Array, "B *T O"]:
        """What the decoder says of every pixel; of this :meth:`decode` is the mean."""
        ...

    def log_likelihood(self, outputs: Float[Array, "B *T O"], image: Float[Array, "B *T C"]) -> Float[Array, " B"]:
        """Of images, by what the decoder says of them, in nats per image."""
        ...


@runtime_checkable
class Regenerator(Variational, Protocol):
    """A variational autoencoder whose outputs are the cells of an automaton: they can be damaged, and grow on."""

    def step(self, params: PyTree) -> Callable[[Float[Array, "B *T O"]], Float[Array, "B *T O"]]:
        """The rule: cells to cells one step older."""
        ...

    def mean(self, outputs: Float[Array, "B *T O"]) -> Float[Array, "B *T C"]:
        """The image of cells."""
        ...


class Rebuilt(NamedTuple):
    """What a :class:`Rebuilder` made of a batch: images ``fake`` beside the ``real`` ones, both [N, H, W, C].

    ``penalties``: by name, what the loss has beside how far apart they are. ``z``: latents before they were quantised
    with the codebook that learns, and ``codes``, the entries that they became; of no codebook none.
    """

    fake: Float[Array, "N H W C"]
    real: Float[Array, "N H W C"]
    penalties: dict[str, Float[Array, ""]]
    z: Float[Array, "*S L"] | None = None
    codes: Int[Array, "*S"] | None = None


@runtime_checkable
class Rebuilder(Autoencoder, Protocol):
    """An autoencoder that says itself what training looks at: codebooks, or some slices of a volume."""

    def rebuild(self, params: PyTree, image: Float[Array, "B *T C"], key: Key[Array, " B"]) -> Rebuilt:
        """Images, what they should be, and penalties. ``key``: one a sample."""
        ...

    def last(self, params: PyTree) -> Array:
        """The last kernel that is trained, by whose gradient a critic is weighed."""
        ...


@runtime_checkable
class Standing(Rebuilder, Protocol):
    """An autoencoder that stands on another one: ``params["slices"]`` are those of ``slices``, and never change."""

    @property
    def slices(self) -> Autoencoder:
        """The other one, whose run training begins with (``config.train.init``)."""
        ...


@runtime_checkable
class Paired(Standing, Protocol):
    """An autoencoder of volumes that says of every slice something beside its own latent, for another network to learn
    how the one becomes the other."""

    def pairs(self, params: PyTree, image: Float[Array, "B D H W C"]) -> tuple[Array, Array]:
        """Latents of slices [B, D, h, w, L] by themselves, and what the latent of the volume says of them."""
        ...


@runtime_checkable
class Classifier(Protocol):
    """A network that says which of ``classes`` an image [B, *T, C] of 1 or 3 channels shows."""

    @property
    def classes(self) -> int:
        """How many classes it tells apart."""
        ...

    def init(self, key: Key[Array, ""]) -> PyTree:
        """Parameters before training."""
        ...

    def init_statistics(self) -> PyTree:
        """What it knows of images in general, and does not learn by gradients."""
        ...

    def apply(
        self, params: PyTree, statistics: PyTree, x: Float[Array, "B *T C"], train: bool = False
    ) -> tuple[Float[Array, "B K"], PyTree]:
        """Logits, and the statistics as this batch moved them."""
        ...


@runtime_checkable
class Segmenter(Protocol):
    """A network that says of every place of an image [B, *T, C] which of ``classes`` it shows.

    ``ndim`` spatial axes, whose sides are multiples of ``multiple``.
    """

    @property
    def classes(self) -> int:
        """How many classes it tells apart."""
        ...

    @property
    def ndim(self) -> int:
        """Spatial axes that it takes."""
        ...

    @property
    def multiple(self) -> int:
        """Of which the sides of an image are multiples."""
        ...

    def init(self, key: Key[Array, ""]) -> PyTree:
        """Parameters before training."""
        ...

    def apply(self, params: PyTree, x: Float[Array, "B *T C"]) -> Float[Array, "B *T K"]:
        """Logits of every place."""
        ...


@runtime_checkable
class Published(Protocol):
    """A network whose weights are published, under names of their own."""

    def load(self, path: str | Path) -> PyTree:
        """Parameters from a file. UserError for one that cannot be read, or that holds another network."""
        ...


@runtime_checkable
class Republished(Published, Protocol):
    """A network that also writes its weights under the published names."""

    def state(self, params: PyTree) -> dict[str, np.ndarray]:
        """Parameters by the published names, for :func:`nca_gen.io.weights.write`; what :meth:`load` reads."""
        ...


def unchanged(x: np.ndarray) -> np.ndarray:
    """What is said of samples that are pictures already."""
    return x


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params"],
    meta_fields=["config", "task", "step", "decode"],
    drop_fields=["averages"],  # no program needs them
)
@dataclass(frozen=True)
class Part:
    """A trained network and how it was trained; frozen. Opened by :func:`nca_gen.runtime.run.open_run`.

    ``config``: of its run, read only. ``task``: whose ``model`` the ``params`` are of. ``step``: of training.
    ``decode``: from the units that it learned (latents, say) to images in [-1, 1]. ``averages``: what other averages
    are made of (:class:`Averaged`), read when it is asked for; None where only ``params`` are at hand.
    """

    config: Any
    task: Any
    params: PyTree
    step: int = 0
    decode: Callable[[np.ndarray], np.ndarray] = unchanged
    averages: Callable[[], Any] | None = None


if TYPE_CHECKING:
    Parts = Mapping[str, Part]
else:
    Parts = Mapping  # a part may be opened when it is asked for, which no check at run time should do
"""Trained parts by name: "model" is the run itself, the others are those of ``config.parts``."""


@runtime_checkable
class Task(Protocol):
    """What is learned: pure, so that the loop knows no more than this. A frozen, hashable dataclass.

    A task of two players updates both inside ``step``. Its state is a NamedTuple whose field ``step`` counts; of its
    arrays those of the optimiser and of averages belong to it as well.
    """

    def __hash__(self) -> int:
        """Equal tasks do the same: their programs are shared."""
        ...

    @property
    def model(self) -> Any:
        """The network that is trained."""
        ...

    def init(self, key: Key[Array, ""], batch: Mapping[str, Any] | None = None) -> Any:
        """The state before the first step. ``batch`` (arrays or their shapes), where given, is checked: UserError where
        its images or labels do not fit the model."""
        ...

    def step(self, state: Any, batch: Mapping[str, Array], parts: Parts | None = None) -> tuple[Any, dict[str, Array]]:
        """The next state, and metrics: scalars, among them "loss" and "grad_norm". ``parts`` are not trained."""
        ...

    def eval_params(self, state: Any) -> PyTree:
        """The parameters that generate."""
        ...


@runtime_checkable
class Transfer(Task, Protocol):
    """A task that can begin with the weights of another run."""

    def inherits(self, params: PyTree) -> PyTree:
        """What of ``params``, of an :meth:`eval_params`, is of another run: all of it, or what stays as it is."""
        ...

    def begin(self, state: Any, params: PyTree) -> Any:
        """The ``state`` before the first step, with these for its own: what is trained, and where averages begin."""
        ...


@runtime_checkable
class Averaged(Task, Protocol):
    """A task that can keep, beside the parameters that generate, what averages of other widths are made of."""

    def averages(self, state: Any) -> Any:
        """What :func:`nca_gen.tasks.posthoc.rebuilt` takes; () where nothing is kept."""
        ...


@runtime_checkable
class Conditional(Task, Protocol):
    """A task whose model may be told something beside the image."""

    def condition(self, batch: Mapping[str, Array]) -> Condition:
        """What the model is told of each image of a batch; None for nothing."""
        ...


@runtime_checkable
class Resolving(Conditional, Protocol):
    """A task whose model may resolve a smaller image, as a later stage of a cascade does."""

    @property
    def resolves(self) -> bool:
        """Whether it does."""
        ...

    @property
    def low(self) -> int:
        """How many times smaller that is; 0 where there is none."""
        ...

    def augmented(
        self, cond: Condition, key: Key[Array, " B"], t: Float[Array, " B"] | None = None, at: Coords | None = None
    ) -> Condition:
        """``cond`` with noise in its smaller image: of the time ``t``, of ``key``, and of the coordinates ``at``."""
        ...


@runtime_checkable
class Pipeline(Protocol):
    """How trained parts generate: ``Pipeline(parts, **config.generate)``, a frozen dataclass of a module of
    :mod:`nca_gen.pipelines`. How samples are drawn stands in ``parts["model"].config``."""

    @property
    def parts(self) -> Parts:
        """What it generates with."""
        ...

    @property
    def kind(self) -> str:
        """ "images", "volumes", "slides", or "nothing"."""
        ...

    def title(self) -> list[str]:
        """What two folders of :meth:`write` may differ in, beside the sampler and the seed."""
        ...

    def draw(
        self, key: Key[Array, " n"], size: tuple[int, ...], cond: Condition = None
    ) -> Iterator[Float[np.ndarray, "*T C"]]:
        """One sample a key, one after the other, in [-1, 1] and perhaps a little beyond. Sample i depends on ``key[i]``
        and on row i of ``cond``, not on its neighbours. ``size``: in the units of the data that the model learned."""
        ...

    def write(self, folder: Path) -> list[str]:
        """All that its config asks for, as files in ``folder``; what is there already is kept. Returns what to say."""
        ...


class Calls(NamedTuple):
    """How often a network is asked for one picture: for ``patches`` of a ``shape`` [*S, C], ``each`` so many times.

    ``ask``: what is asked of one that is no denoiser, a function of its parameters and of patches [B, *S, C].
    """

    patches: int
    each: int
    shape: tuple[int, ...]
    ask: Callable[[PyTree, Array], Array] | None = None


@runtime_checkable
class Counted(Pipeline, Protocol):
    """A pipeline that draws pictures, or volumes, patch by patch, and knows before it draws of how many."""

    def counts(self, size: tuple[int, ...]) -> Mapping[str, Calls]:
        """Of every network, by its name, for a picture of ``size``; it needs nothing of ``Part.params``."""
        ...


@runtime_checkable
class Guided(Pipeline, Protocol):
    """A pipeline whose samples can each follow a label map, on the grid of their voxels."""

    def map_classes(self) -> int:
        """How many classes the maps have that it learned to follow; 0 where it learned without maps."""
        ...

    def follow(self, folder: Path, n: int, label_map: Callable[[int], Any]) -> list[str]:
        """Like :meth:`write`, ``n`` samples, of which sample i follows ``label_map(i)``: a volume of classes, on disk
        (:mod:`nca_gen.io.stored`) or in memory. It depends on the seed, on i and on that map, and is called {i:05d}."""
        ...


class Figure(NamedTuple):
    """A picture of a page: ``file`` in the folder of the evaluation; shown as ``kind``.

    "pair" half a page wide, side by side; "wide" alone; "strip" all of the page, several side by side, and scrolls on a
    phone; "film" an animation, beside ``strip``. Of a caption, what stands between ** and ** is bold.
    """

    file: str
    caption: str
    kind: str = "pair"
    strip: str = ""


class Table(NamedTuple):
    """Rows of a page by heading: numbers or words."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    intro: str = ""


@dataclass(frozen=True)
class Page:
    """What an evaluator found, as ``report`` renders it. ``facts``: all that must be known beside the scores (protocol,
    counts, notes, ..), for JSON; ``lines`` are for the screen; ``curves``: points (x, y) by heading; ``points``: single
    ones (x, y, name) by heading, x on a logarithmic axis."""

    title: str
    scores: Mapping[str, float] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    lines: Sequence[str] = ()
    intro: str = ""
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    points: Mapping[str, Sequence[tuple[float, float, str]]] = field(default_factory=dict)


@runtime_checkable
class Evaluator(Protocol):
    """One question about a run: a module of :mod:`nca_gen.evaluators`, asked as often as its section of
    ``config.evals`` says (``every`` steps; 0 only when asked by --mode=evaluate)."""

    def evaluate(self, pipeline: Pipeline, data: Any, folder: Path, /, *args: Any, **section: Any) -> Page:
        """``data``: a :class:`nca_gen.evaluators.held.Held`, of one evaluation. Pictures go into ``folder``."""
        ...


@runtime_checkable
class Metric(Protocol):
    """A distance between sets by what is kept of each: a module of :mod:`nca_gen.metrics`.

    So references are cached, hosts and shards merge what they saw, and 50,000 images need not be in memory.
    """

    def statistics(self, features: Float[np.ndarray, "N D"], /) -> Any:
        """What is kept of a set."""
        ...

    def merge(self, one: Any, other: Any, /) -> Any:
        """The statistics of both sets together."""
        ...

    def distance(self, real: Any, generated: Any, /) -> dict[str, float]:
        """The scores: the metric's own by its name, and its parts."""
        ...
