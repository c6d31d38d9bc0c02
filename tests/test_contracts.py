"""Everything that the house is made of, assigned to its contract: the type checker reads this file.

What runs here is that ``isinstance`` tells what only some models can do.
"""

import inspect

import pytest

from nca_gen.contracts import (
    Aging,
    Autoencoder,
    Automaton,
    Averaged,
    Conditional,
    Counted,
    Denoiser,
    Evaluator,
    Guided,
    Heir,
    Listener,
    Local,
    Metric,
    Paired,
    Pipeline,
    Portable,
    Process,
    Published,
    Rebuilder,
    Regenerator,
    Republished,
    Resolving,
    Segmenter,
    Standing,
    Transfer,
    Variational,
)
from nca_gen.diffusion import continuous, discrete
from nca_gen.diffusion.codec import Codec
from nca_gen.evaluators import (
    confusion,
    damage,
    films,
    grades,
    growth,
    guided,
    heredity,
    likelihood,
    nearest,
    reconstruction,
    samplers,
    scores,
    segmentation,
    structure,
)
from nca_gen.metrics import fid
from nca_gen.models import (
    diff_nca,
    dit,
    efficient_unet,
    fourier_diff_nca,
    geca,
    multislice,
    nhae,
    resnet34,
    resolving_nca,
    segment_unet,
    unet,
    vae_kl,
    vnca,
    vq_vae,
    vq_vae_3d,
)
from nca_gen.pipelines import ca_ldm, decode, gigapixel, inpaint, nca_cascade, sample, upscale, urcdm, window
from nca_gen.tasks import autoencode, classify, denoise, distil, elbo, segment
from nca_gen.tasks.learner import Learner

denoisers: list[Denoiser] = [
    diff_nca.Model(),
    fourier_diff_nca.Model(),
    geca.Model(),
    dit.Model(),
    unet.Model(),
    efficient_unet.Model(),
    resolving_nca.Model(),
]
local: list[Local] = [diff_nca.Model(), fourier_diff_nca.Model(), geca.Model(), resolving_nca.Model()]
listener: Listener = fourier_diff_nca.Model()
heir: Heir = geca.Model()
automata: list[Automaton] = [diff_nca.Model(), fourier_diff_nca.Model(), geca.Model(), resolving_nca.Model()]
aging: list[Aging] = [diff_nca.Model(), fourier_diff_nca.Model(), geca.Model(), resolving_nca.Model()]
portable: list[Portable] = [diff_nca.Model(), fourier_diff_nca.Model(), resolving_nca.Model()]  # two refuse
autoencoder: Autoencoder = vae_kl.Model()
variational: Variational = vnca.Model()
regenerator: Regenerator = vnca.Model()
rebuilder: Rebuilder = vq_vae.Model()
rebuilder_3d: Rebuilder = vq_vae_3d.Model()
standing: Standing = multislice.Model()
paired: Paired = nhae.Model()
segmenter: Segmenter = segment_unet.Model(classes=2)
published: list[Published] = [vae_kl.Model(), unet.Model(), efficient_unet.Model()]
republished: Republished = vae_kl.Model()
processes: list[Process] = [discrete.Process(), continuous.Process()]
tasks: list[Transfer] = [
    denoise.Task(diff_nca.Model(), Learner(), discrete.Process(), Codec()),
    autoencode.Task(vae_kl.Model(), Learner()),
    classify.Task(resnet34.Model(classes=2), Learner()),
    distil.Task(diff_nca.Model(), Learner(), discrete.Process(), Codec()),
    elbo.Task(vnca.Model(), Learner()),
    segment.Task(segment_unet.Model(classes=2), Learner()),
]
averaged: Averaged = denoise.Task(diff_nca.Model(), Learner(), discrete.Process(), Codec())
conditional: Conditional = denoise.Task(diff_nca.Model(), Learner(), discrete.Process(), Codec())
resolving: Resolving = denoise.Task(diff_nca.Model(), Learner(), discrete.Process(), Codec())
pipelines: list[type[Pipeline]] = [
    sample.Pipeline,
    decode.Pipeline,
    inpaint.Pipeline,
    upscale.Pipeline,
    gigapixel.Pipeline,
    window.Pipeline,
    nca_cascade.Pipeline,
]
counted: list[type[Counted]] = [urcdm.Pipeline, ca_ldm.Pipeline, nca_cascade.Pipeline]
following: type[Guided] = ca_ldm.Pipeline
evaluators: list[Evaluator] = [
    confusion,
    damage,
    films,
    grades,
    growth,
    guided,
    heredity,
    likelihood,
    nearest,
    reconstruction,
    samplers,
    scores,
    segmentation,
    structure,
]
metric: Metric = fid


@pytest.mark.parametrize(
    ("contract", "members"),
    [
        (Denoiser, denoisers),
        (Local, local),
        (Listener, [listener]),
        (Heir, [heir]),
        (Automaton, automata),
        (Aging, aging),
        (Portable, portable),
        (Autoencoder, [autoencoder, variational, rebuilder, standing, paired]),
        (Variational, [variational]),
        (Regenerator, [regenerator]),
        (Rebuilder, [rebuilder, standing, paired]),
        (Standing, [standing, paired]),
        (Paired, [paired]),
        (Segmenter, [segmenter]),
        (Published, published),
        (Republished, [republished]),
    ],
)
def test_a_model_can_what_its_contract_says_and_nothing_else(contract, members):
    everything = [
        *denoisers,
        autoencoder,
        variational,
        rebuilder,
        standing,
        paired,
        segmenter,
        resnet34.Model(classes=2),
    ]
    assert {type(model) for model in everything if isinstance(model, contract)} == {type(model) for model in members}


def test_tasks_are_hashable():
    """They are static arguments of compiled functions."""
    assert len({hash(task) for task in tasks}) == len(tasks)


def test_only_denoisers_are_told_something():
    assert [type(task) for task in tasks if isinstance(task, Conditional)] == [denoise.Task, distil.Task]
    assert [type(task) for task in tasks if isinstance(task, Averaged)] == [denoise.Task, distil.Task]


def test_no_field_of_a_pipeline_has_the_name_of_a_method_of_a_contract():
    """``isinstance`` looks at names: a pipeline with a field ``calls`` seemed to count its calls, and could not."""
    methods = {name for one in (Pipeline, Counted, Guided) for name, x in vars(one).items() if inspect.isfunction(x)}
    every = [*pipelines, urcdm.Pipeline, ca_ldm.Pipeline]
    assert not [(cls, name) for cls in every for name in cls.__annotations__ if name in methods]
    assert [cls for cls in every if hasattr(cls, "counts")] == [nca_cascade.Pipeline, urcdm.Pipeline, ca_ldm.Pipeline]
