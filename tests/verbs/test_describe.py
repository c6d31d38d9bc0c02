"""--mode=describe against counts by hand."""

import json
from argparse import Namespace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import tiny

from nca_gen import arrays, build
from nca_gen.config import load, override, stages
from nca_gen.errors import UserError
from nca_gen.nn import resnet
from nca_gen.verbs import describe as verb
from nca_gen.verbs import describe_slide
from nca_gen.verbs.describe import describe, facts
from nca_gen.verbs.describe_work import matmul_flop

ROOT = Path(__file__).resolve().parents[2]


def flop(f, *args):
    return matmul_flop(jax.make_jaxpr(f)(*args).jaxpr)


def test_products():
    a, b = jnp.ones((5, 7)), jnp.ones((7, 3))
    assert flop(jnp.dot, a, b) == 2 * 5 * 7 * 3
    assert (
        flop(lambda a, b: jnp.einsum("nij,njk->nik", a, b), jnp.ones((4, 5, 7)), jnp.ones((4, 7, 3)))
        == 4 * 2 * 5 * 7 * 3
    )
    assert flop(lambda a: jnp.sin(a) + a, a) == 0


def test_convolutions():
    x, k = jnp.ones((2, 10, 12, 3)), jnp.ones((3, 3, 3, 8))
    conv = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    assert flop(conv, x, k) == 2 * (2 * 8 * 10 * 8) * 9 * 3


def test_loops_and_what_is_wrapped():
    """Scans count their length, also within each other; jit and checkpoint are looked into."""
    a = jnp.ones((4, 4))
    one = 2 * 4**3
    times = lambda n, f: lambda x: jax.lax.scan(lambda c, _: (f(c), None), x, length=n)[0]
    product = lambda x: x @ a
    assert flop(times(10, product), a) == 10 * one
    assert flop(times(3, times(5, product)), a) == 15 * one
    assert flop(jax.jit(times(3, jax.checkpoint(jax.jit(product)))), a) == 3 * one
    usually = lambda x: jax.lax.cond(x.sum() > 0, product, times(9, product), x)
    assert flop(times(3, usually), a) == 3 * one


C, H, STEPS, TAUGHT = 12, 20, 3, 2  # channels, hidden, steps, and e: embedding channels


def shapes(**changes):
    sizes = {"model.channels": C, "model.hidden": H, "model.steps": STEPS, "model.conv": "gathered", "train.batch": 2}
    return tiny.config(**sizes | changes)


def call(n, **changes):
    """FLOP of one call on an image of n x n."""
    model = build.model(shapes(**changes))
    params = jax.eval_shape(model.init, jax.random.key(0))
    x, t, key = (
        jax.ShapeDtypeStruct((1, n, n, model.reads), jnp.float32),
        jnp.zeros(1, jnp.int32),
        arrays.keys(0, 1),
    )
    return flop(lambda p, x: model.apply(p, x, t, None, (), key), params, x)


CELL = 9 * C * C + 2 * C * H + H * C  # multiplications of a cell and step: perceive, fc0, fc1


@pytest.mark.slow
@pytest.mark.parametrize("conv", ["shifted", "gathered", "convolved"])
def test_flop_of_a_cell(conv):
    """What one more cell costs, at most with its biases as weights of one more input."""
    cost = (call(16, **{"model.conv": conv}) - call(8, **{"model.conv": conv})) / (16**2 - 8**2)
    assert 2 * STEPS * CELL <= cost <= 2 * STEPS * (CELL + C + H)


@pytest.mark.slow
def test_flop_of_what_cells_share():
    """Once a step: the embedding, two gates, and what the embedding says to perceive and fc0."""
    e, q, cell = TAUGHT, H // 4, (call(16) - call(8)) // (16**2 - 8**2)
    embedding = e * e * 256 + 256 * e
    gates = 2 * e * q + q * (2 * C + e) + q * H
    said = e * C + (e + C) * H
    assert 2 * STEPS * (embedding + gates) <= call(8) - 64 * cell <= 2 * STEPS * (embedding + gates + said)


def sizes(config):
    """What a config builds, without compiling it."""
    return verb.sizes(config, build.task(config))


@cache
def known(norm):
    return sizes(shapes(**{"model.norm": norm}))


@pytest.mark.slow
def test_reach_and_cost():
    assert [known(norm)["halo"] for norm in ("cell", "group")] == [STEPS, "global"]
    assert known("cell")["gflop_per_call"] == pytest.approx(call(16) / 1e9)
    assert known("cell")["image"] == [16, 16, 3]


@pytest.mark.slow
def test_reach_and_cost_of_blocks():
    """A cell of 2 x 2 pixels: a quarter of the cells, seen twice as far; told in pixels."""
    told = sizes(shapes(**{"model.norm": "cell", "codec.block": 2, "model.image_channels": 12, "model.channels": 36}))
    assert (told["halo"], told["image"]) == (2 * STEPS, [16, 16, 3])
    assert told["gflop_per_call"] == pytest.approx(call(8, **{"model.image_channels": 12, "model.channels": 36}) / 1e9)


def parameters(norm):
    """The facts' table with its gains."""
    c, h, e = C, H, TAUGHT
    layer = lambda i, o: i * o + 2 * o
    return {
        "image.perceive": layer(9 * (c + e), c),
        "image.fc0": layer(2 * c + e, h),
        "image.fc1": layer(h, c),
        "image.gate0_0": layer(e, h // 4),
        "image.gate0_1": layer(h // 4, 2 * c + e),
        "image.gate1_0": layer(e, h // 4),
        "image.gate1_1": layer(h // 4, h),
        "image.embedding_0": layer(e * e, 256),
        "image.embedding_1": layer(256, e),
        **({"image.norm_scale": h, "image.norm_shift": h} if norm == "group" else {}),
    }


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["cell", "group"])
def test_parameters_by_module(norm):
    assert known(norm)["parameters"] == parameters(norm)
    assert known(norm)["trainable"] == sum(parameters(norm).values())


@pytest.mark.slow
def test_memory_is_what_is_kept():
    """With ``step`` at least the cells of every step, without rematerialisation several times that."""
    sized = lambda remat: shapes(**{"data.patch": (32, 32), "model.steps": 16, "model.remat": remat})
    kept, steps = (facts(sized(remat)) for remat in ("none", "step"))
    assert steps["training_step_peak_mb"] > 16 * 2 * 32 * 32 * C * 4 / 1e6
    assert kept["training_step_peak_mb"] > 2 * steps["training_step_peak_mb"]
    assert steps == sizes(sized("step")) | {name: steps[name] for name in ("training_batch", "training_step_peak_mb")}
    assert steps["training_batch"] == 2


TOLD = {
    **{"model": "diff_nca", "parameters": {"image.perceive": 1536, "image.fc0": 560}, "trainable": 2096},
    **{"halo": 3, "image": [16, 16, 3], "gflop_per_call": 0.1234, "training_batch": 2, "training_step_peak_mb": 56.7},
}


def test_json(capsys, monkeypatch):
    monkeypatch.setattr(verb, "facts", lambda config: TOLD)
    assert describe(shapes(), json=True) == json.loads(capsys.readouterr().out) == TOLD


@pytest.mark.parametrize(("halo", "reach"), [(3, "3 pixels around it"), ("global", "global")])
def test_table(capsys, monkeypatch, halo, reach):
    monkeypatch.setattr(verb, "facts", lambda config: TOLD | {"halo": halo})
    describe(shapes())
    lines = capsys.readouterr().out.splitlines()
    assert any("image.perceive" in line and "1,536" in line for line in lines)
    assert any("all" in line and "2,096" in line for line in lines)
    assert any("sees" in line and reach in line for line in lines)
    assert any("16x16x3" in line and "0.123 GFLOP" in line for line in lines)
    assert any("57 MB at batch 2" in line for line in lines)


@pytest.mark.slow
def test_what_training_lacks_is_said_beside_the_rest(capsys, monkeypatch):
    """Weights that are not here, say."""

    def lacking(config, task):
        raise UserError("no weights")

    monkeypatch.setattr(verb, "peak_mb", lacking)
    known = describe(shapes())
    assert known["training_step"] == "no weights"
    assert "training_step_peak_mb" not in known
    out = capsys.readouterr().out
    assert "a training step    cannot be compiled: no weights" in out
    assert "image.perceive" in out


@pytest.mark.slow
def test_a_classifier_is_no_denoiser(monkeypatch):
    """It has parameters and takes memory; how far it sees is not asked."""
    monkeypatch.setattr(resnet, "resnet34", tiny.shallow)
    config = override(load(f"{ROOT}/configs/classifier.py:smoke"), ["--config.model.width=3"])
    known, task = facts(config), build.task(config)
    weights = jax.eval_shape(task.init, jax.random.key(0), verb.examples(task, 2, (32, 32)))
    assert known["trainable"] == sum(x.size for x in jax.tree.leaves(weights.params))
    assert known["training_step_peak_mb"] > 0
    assert "halo" not in known


def volumes(**model):
    """A U-Net of volumes in continuous time, told of a picture of the same grid and of a label."""
    c = tiny.stated()
    sizes = {"width": 32, "multipliers": (1,), "blocks": 1, "attention": (), "head": 16, "learned_variance": False}
    c.model = {"name": "unet", "ndim": 3, "image_channels": 2, "context_channels": 1, "classes": 4} | sizes | model
    c.diffusion = {"name": "continuous"}
    c.data.patch = (4, 6, 8)
    c.train.batch = 2
    return build.completed(c)


def test_a_batch_of_volumes_with_all_that_the_model_is_told():
    shapes = {name: x.shape for name, x in verb.examples(build.task(volumes()), 2, (4, 6, 8)).items()}
    assert shapes == {"image": (2, 4, 6, 8, 2), "context": (2, 4, 6, 8, 1), "label": (2, 4)}


@pytest.mark.slow
def test_volumes_in_continuous_time():
    """A convolution of one more channel told costs so many more products in its first layer."""
    told, wider = sizes(volumes()), sizes(volumes(context_channels=2))
    assert (told["halo"], told["image"]) == ("global", [4, 6, 8, 2])
    assert wider["trainable"] - told["trainable"] == 27 * 32
    assert wider["gflop_per_call"] - told["gflop_per_call"] == pytest.approx(2 * 27 * 32 * 4 * 6 * 8 / 1e9)


def whole(forms):
    """The stages of URCDM."""
    page = f"{ROOT}/configs/urcdm.py:{forms}"
    return [stage._replace(config=override(stage.config, [])) for stage in stages(page)]


@pytest.mark.parametrize(
    ("page", "forms", "of_a_stage", "names"),
    [
        ("nca_cascade.py", [], ["stage1"], ["stage1"]),
        ("nca_cascade.py", ["laptop"], ["stage2"], ["stage1", "stage2"]),
        ("nca_cascade.py", ["laptop"], [], ["stage1", "stage2", "stage3"]),
        ("urcdm.py", [], ["mag0", "stage2"], ["mag0_stage1", "mag0_stage2"]),
        ("urcdm.py", ["laptop"], ["mag1", "stage1"], ["mag0_stage1", "mag0_stage2", "mag0_stage3", "mag1_stage1"]),
        ("ca_ldm.py", ["laptop"], ["refiner"], ["vae2d", "nhae", "diff3d", "refiner"]),
        ("urcdm.py", ["outpainting"], ["mag0"], []),
        ("ca_ldm.py", ["ldm3d"], [], ["vae2d", "diff3d"]),
        ("ca_ldm.py", ["medical_diffusion", "laptop"], [], ["vae3d", "diff3d"]),
        ("ca_ldm.py", ["lvd", "laptop"], ["diff3d"], ["vae2d", "diff3d"]),
    ],
)
def test_a_stage_and_those_before_it(page, forms, of_a_stage, names):
    """A form that chooses a stage chooses what is described, and leaves its chain as it is."""
    spec, plain = (f"{ROOT}/configs/{page}:{','.join(some)}".removesuffix(":") for some in (forms + of_a_stage, forms))
    own = load(spec)
    found = verb.beside(own, Namespace(config=spec, workdir=None))
    assert [stage.name for stage in found] == names
    assert not found or found[-1].config is own
    chain, expected = ({stage.name: stage.config.to_dict() for stage in stages(some)} for some in (spec, plain))
    assert chain == expected


@pytest.mark.parametrize(
    ("rival", "first", "sides"),
    [
        ("ldm3d", "vae2d", (512, 64, 64)),
        ("medical_diffusion", "vae3d", (64, 64, 64)),
        ("lvd", "vae2d", (512, 64, 64)),
    ],
)
def test_a_rival_without_a_stage_is_its_diffusion(rival, first, sides):
    """CA-LDM's last stage is none of a rival's; the autoencoder before it keeps the latents that it encodes."""
    config = load(f"{ROOT}/configs/ca_ldm.py:{rival}")
    assert (config.data.path, config.data.patch, build.model(config).ndim) == (f"../{first}", sides, 3)
    assert "encode" in load(f"{ROOT}/configs/ca_ldm.py:{rival},{first}")


@pytest.mark.slow
def test_a_slide_by_the_published_cascade(monkeypatch):
    """Patches and steps of the paper; 40000 pixels a side are 1, 49 and 45 x 45 patches, and a pixel 1 MFLOP a call."""
    chain = whole("published")
    chain[-1].config.sample.size = (40_000, 40_000)
    monkeypatch.setattr(describe_slide, "call_gflop", lambda task, shape: shape[0] * shape[1] / 1000)
    known = describe_slide.work(chain)
    rows = [(row["network"], row["patches"], row["each"], row["shape"]) for row in known["networks"]]
    sides = {1: (64, 1024), 2: (256, 256), 3: (1024, 256)}  # pixels, and steps
    assert rows == [
        (f"mag{m}_stage{s}", patches, steps, (side, side, 3))
        for m, patches in enumerate((1, 49, 2025))
        for s, (side, steps) in sides.items()
    ]
    exaflop = (1 + 49 + 2025) * sum(steps * side**2 for side, steps in sides.values()) * 1e6 / 1e18
    assert known["exaflop"] == pytest.approx(exaflop)
    rates = {"h100:1": 989e12 * 0.4, "a100:9": 9 * 312e12 * 0.4}  # bfloat16
    assert known["hours"] == pytest.approx({fleet: exaflop * 1e18 / rate / 3600 for fleet, rate in rates.items()})


@pytest.mark.slow
def test_a_picture_by_a_cascade_of_automata(monkeypatch, capsys):
    """2, 4 and 8 calls of an eighth of a side, a half and the whole, each in one tile; a pixel 1 MFLOP a call."""
    chain = [
        stage._replace(config=override(stage.config, [f"--config.sample.steps={steps}"]))
        for stage, steps in zip(stages(f"{ROOT}/configs/nca_cascade.py:smoke"), (2, 4, 8), strict=True)
    ]
    chain[-1].config.sample.size = (800, 640)
    monkeypatch.setattr(describe_slide, "call_gflop", lambda task, shape: shape[0] * shape[1] / 1000)
    known = describe_slide.work(chain)
    rows = [(row["network"], row["patches"], row["each"], row["shape"]) for row in known["networks"]]
    sides = {"stage1": (100, 80), "stage2": (400, 320), "stage3": (800, 640)}
    assert rows == [(name, 1, n, (*side, 3)) for n, (name, side) in zip((2, 4, 8), sides.items(), strict=True)]
    teraflop = 2 * 0.008 + 4 * 0.128 + 8 * 0.512
    assert known["exaflop"] * 1e6 == pytest.approx(teraflop)
    describe_slide.show(known)
    assert f"on 1 x H100 SXM5: {teraflop:.3g} TFLOP, " in capsys.readouterr().out


@pytest.mark.slow
def test_a_volume_of_ca_ldm(capsys):
    """By the paper's steps and windows 34 PFLOP: 200 of 9.69 TFLOP, 512 x 200 of 0.200, 508 of 22.8; by default 3.5."""
    volumes = lambda forms: [
        s._replace(config=override(s.config, [])) for s in stages(f"{ROOT}/configs/ca_ldm.py{forms}")
    ]
    known = describe_slide.work(volumes(":published"))
    rows = {row["network"]: (row["patches"], row["each"], row["gflop_per_call"]) for row in known["networks"]}
    figures = {
        "diff3d": (1, 200, 9690),
        "refiner": (512, 200, 200),
        "multislice": (508, 1, 22_830),
        "nhae": (1, 1, 44.5),
    }
    assert {name: row[:2] for name, row in rows.items()} == {name: row[:2] for name, row in figures.items()}
    for name, row in rows.items():
        assert row[2] == pytest.approx(figures[name][2], rel=0.002)
    petaflop = sum(patches * each * gflop for patches, each, gflop in rows.values()) / 1e6
    assert 1000 * known["exaflop"] == pytest.approx(petaflop)
    assert petaflop == pytest.approx(34, abs=0.1)
    assert known["hours"]["h100:1"] == pytest.approx(petaflop * 1e15 / (989e12 * 0.4) / 3600, rel=1e-4)
    known = describe_slide.work(volumes(""))
    assert 3.4e-3 < known["exaflop"] <= 3.5e-3
    describe_slide.show(known)
    assert "a volume of 512x512x512 voxels" in (out := capsys.readouterr().out)
    assert "on 1 x H100 SXM5: 3.47 PFLOP, 8.8 s at 40% of its products" in out


def test_only_what_is_drawn_patch_by_patch_is_counted():
    assert describe_slide.work(whole("lrdm,smoke")) is None
