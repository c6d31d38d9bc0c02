"""The page of --export.html, in a real browser without a graphics processor: the numbers of the package, by WebGL2 and
by the processor; somebody who damages what has grown; and what is refused."""

import json
import os
import re
from pathlib import Path

import browser
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from nca_gen import arrays, build
from nca_gen import config as configs
from nca_gen.contracts import Part
from nca_gen.diffusion import samplers
from nca_gen.errors import UserError
from nca_gen.io import exports
from nca_gen.pipelines import inpaint, sampling
from nca_gen.pipelines.sampling import Settings
from nca_gen.runtime import run
from nca_gen.verbs import export, export_page

HERE = Path(__file__).resolve().parents[2]
SOFTWARE = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
ENGINES = ("webgl2", "cpu")
NEAR = 1e-3  # of images in [-1, 1], from what jax draws
needs_browser = pytest.mark.skipif(
    not browser.PROGRAM, reason="no browser: install chromium, and the page is tested in it"
)


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    """One tab for all tests: a browser takes its time to begin."""
    with browser.opened(tmp_path_factory.mktemp("browser"), *SOFTWARE) as opened:
        tab = opened()
        tab.size(1100, 800)
        yield tab


def tissue(size=(24, 32)):
    """The zoo's rule, on its page."""
    part = run.open_run(exports.ZOO / "tissue")
    return part, export_page.page(pipeline(part), size, "tissue")


def pipeline(part):
    return build.pipeline(part.config, {"model": part})


def shown(tab, path, page, address=""):
    """``page`` in the browser, before anything has grown."""
    path.write_text(page)
    tab.go("about:blank")
    tab.go(f"file://{path}{address}")
    tab.wait("growth.now && document.readyState == 'complete'")


def by(tab, engine):
    """What the page grows of its address by ``engine``: cells [H, W, D]."""
    tab.value(f"document.querySelector('[value={engine}]').checked = true")
    tab.value("grow()")
    return grown(tab, engine)


def grown(tab, engine):
    tab.wait("growth.now.done")
    assert tab.value("engine.kind") == engine
    return cells(tab)


def cells(tab):
    height, width = tab.value("growth.now.size")
    return np.array(tab.value("Array.from(growth.now.x)"), np.float32).reshape(height, width, -1)


def image(part, cells):
    return np.asarray(part.task.codec.decode(jnp.asarray(cells)[None]))[0]


def drawn(part, seed, size):
    """What the package draws: the first picture of a seed."""
    [carry] = sampling.trajectory(part, arrays.keys(seed, 1), size, Settings.of(part.config.sample))
    return image(part, carry.x[0])


def shot(tab, name):
    """A screenshot, for the eye: NCA_GEN_SHOTS=DIR keeps it."""
    if folder := os.environ.get("NCA_GEN_SHOTS"):
        tab.picture(f"{folder}/{name}.png")


# The same numbers.


@pytest.mark.slow
@needs_browser
def test_the_zoos_tissue_grows_as_the_package_draws_it(tab, tmp_path):
    part, page = tissue()
    shown(tab, tmp_path / "page.html", page, "#seed=4294967295&size=20x28")
    assert tab.value("document.querySelector('[name=engine]:checked').value") == "cpu"  # where WebGL2 is software
    expected = drawn(part, 2**32 - 1, (20, 28))
    for engine in ENGINES:
        np.testing.assert_allclose(image(part, by(tab, engine)), expected, atol=NEAR)
    assert tab.value("engine.now.name") == "CPU"
    # The pixels are those of the file that --mode=generate writes, but where a value lies between two.
    pixels = np.array(tab.value("Array.from(growth.now.pixels().data)")).reshape(20, 28, 4)
    np.testing.assert_array_equal(pixels[..., 3], 255)
    assert abs(pixels[..., :3] - np.clip(np.rint((expected + 1) * 128), 0, 255)).max() <= 1


VARIANTS = {
    # A norm of the whole picture, a torus, noise added in every call, channels that do not come in fours.
    "group": {
        **{"model.norm": "group", "model.channels": 9, "model.hidden": 18, "model.image_channels": 1},
        **{"diffusion.prediction": "eps", "diffusion.schedule": "linear", "generate": {"torus": True}},
        **{"sample.sampler": "ddpm", "sample.clip": "none", "codec.mean": (0.2,), "codec.std": (0.5,)},
    },
    # The straight path in continuous time, more steps of the cells as the noise falls, a quantile.
    "straight": {
        **{"diffusion": {"name": "continuous", "schedule": "straight", "prediction": "velocity"}},
        **{"sample.sampler": "ddim", "sample.clip": "dynamic", "sample.growth": (2, 3), "model.fire_rate": 1.0},
    },
    # Away from what young cells say, in part of the calls; a grid of its own; blocks; weights in half the room
    "guided": {
        **{"sample.growth_guidance": 0.7, "sample.growth_age": 1, "sample.growth_levels": (0.3, 0.95)},
        **{"sample.grid": "karras", "codec.block": 2, "model.image_channels": 12, "model.channels": 27},
    },
    "student": {"sample.sampler": "consistency", "sample.steps": 2, "diffusion.prediction": "x0"},
}


def variant(name):
    config = tiny.config(**VARIANTS[name])
    task = build.task(config)
    part = Part(run.frozen(config), task, tiny.params(task.model, seed=5), 3)
    return export.stored(part, "float16" if name == "guided" else "float32")


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("name", VARIANTS)
def test_any_sampler_prediction_norm_and_border(name, tab, tmp_path):
    part = variant(name)
    rounded = jax.tree.map(lambda x: x.astype(np.float32), part.params)
    shown(tab, tmp_path / "page.html", export_page.page(pipeline(part), (10, 14), name), "#seed=11")
    whole = sampling.denoiser(Part(part.config, part.task, rounded), name == "group")
    expected = drawn(whole, 11, (10, 14))
    assert expected.std() > 0.05
    for engine in ENGINES:
        np.testing.assert_allclose(image(part, by(tab, engine)), expected, atol=NEAR)


# Hands.


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize(("engine", "noise"), [("webgl2", 1.0), ("cpu", 0.6)])
def test_damage_regrows_as_a_hole_is_filled(engine, noise, tab, tmp_path):
    """By the mouse: a flat wound, whose cells are then those of ``inpaint.fill``, and all others what they were."""
    part, page = tissue()
    shown(tab, tmp_path / "page.html", page, "#seed=7")
    before = by(tab, engine)
    assert tab.value("byId('regrow').disabled && byId('status').textContent.startsWith('grown')")
    tab.value("byId('radius').value = 12")
    box = tab.value("(({left, top, width, height}) => [left, top, width, height])(canvas.getBoundingClientRect())")
    left, top = box[0] + 0.5 * box[2], box[1] + 0.4 * box[3]
    for kind, x in (("mousePressed", left), ("mouseMoved", left + 60), ("mouseReleased", left + 60)):
        where = {"x": x, "y": top, "button": "left", "buttons": 1, "clickCount": 1}
        tab.call("Input.dispatchMouseEvent", type=kind, **where)
    tab.wait("byId('status').textContent == 'damaged'")
    shot(tab, f"damaged-{engine}")
    hole = np.array(tab.value("Array.from(growth.now.marks)"), bool).reshape(12, 16)
    wounded = cells(tab)
    assert 6 < hole.sum() < 60
    assert hole[4, 8]
    np.testing.assert_array_equal(wounded, np.where(hole[..., None], 0, before))
    tab.value(f"byId('noise').value = {noise}")
    tab.value("byId('regrow').click()")
    tab.wait("growth.now.number == 1")
    after = grown(tab, engine)
    shot(tab, f"regrown-{engine}")
    assert tab.value("byId('regrow').disabled")
    np.testing.assert_array_equal(after[~hole], before[~hole])
    assert abs(after - before)[hole].max() > 0.1
    pixels = hole.repeat(2, 0).repeat(2, 1)
    key = arrays.keys(7, 1, 1)  # another than that of the picture
    settings = Settings.of(part.config.sample)
    [expected] = inpaint.fill(part, key, image(part, wounded), pixels, settings, noise=noise)
    np.testing.assert_allclose(image(part, after), expected, atol=NEAR)


@pytest.mark.slow
@needs_browser
def test_damage_on_the_way_is_healed_by_the_calls_that_follow(tab, tmp_path):
    """What is wiped out at a call has the noise of that call and nothing else; what follows is sampling as ever."""
    part, page = tissue()
    shown(tab, tmp_path / "page.html", page, "#seed=7")
    by(tab, "cpu")
    tab.value("grow(); pause()")
    for call in range(1, 6):
        tab.value("finished(growth.now.step(engine.now)); 0")
        assert tab.value("growth.now.call") == call
    before = cells(tab)
    tab.value("growth.now.damage(6, 8, 5)")
    hole = np.array(tab.value("Array.from(growth.now.marks)"), bool).reshape(12, 16)
    wounded = cells(tab)
    np.testing.assert_array_equal(wounded[~hole], before[~hole])
    assert abs(wounded[hole].std() / tab.value("growth.now.level") - 1) < 0.1  # about 900 numbers
    tab.value("pause()")
    healed = grown(tab, "cpu")
    settings, key = Settings.of(part.config.sample), arrays.keys(7, 1)
    task = part.task
    told = task.process, task.codec, settings.sampler, settings.clip, settings.guidance, settings.heredity
    later = jnp.asarray(settings.times(task.process)[5:])
    carry = sampling.stretch(task.model, *told)(
        part.params, samplers.begin(jnp.asarray(wounded[None])), later, key, None
    )
    np.testing.assert_allclose(image(part, healed), image(part, carry.x[0]), atol=NEAR)


@pytest.mark.slow
@needs_browser
def test_seeds_lie_in_the_address_and_nothing_is_loaded(tab, tmp_path):
    part, page = tissue((16, 16))
    shown(tab, tmp_path / "page.html", page)
    tab.value("document.querySelector('[value=cpu]').click()")
    first = grown(tab, "cpu")
    np.testing.assert_allclose(image(part, first), drawn(part, 0, (16, 16)), atol=NEAR)
    tab.value("byId('seed').value = 12")
    tab.value("byId('controls').requestSubmit()")
    tab.wait("location.hash == '#seed=12' && growth.now.seed == 12 && growth.now.done")
    assert abs(cells(tab) - first).max() > 0.5
    tab.value("history.back()")
    tab.wait("location.hash == '' && growth.now.seed == 0 && growth.now.done")
    np.testing.assert_array_equal(cells(tab), first)
    tab.value("byId('size').value = '32x32'; byId('size').dispatchEvent(new Event('change'))")
    tab.wait("location.hash == '#seed=0&size=32x32' && growth.now.size[0] == 16 && growth.now.done")
    # The policy of the page forbids what it never does.
    assert tab.value("performance.getEntriesByType('resource').length") == 0
    assert "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:" in page
    assert not re.search(r"https?://|import\(|fetch\(|XMLHttpRequest|WebSocket|sendBeacon", page)


@pytest.mark.slow
@needs_browser
def test_by_keys_and_by_a_finger(tab, tmp_path):
    _, page = tissue((32, 32))
    shown(tab, tmp_path / "page.html", page)
    by(tab, "cpu")
    tab.value("byId('other').focus(); canvas.focus()")
    for key in ("ArrowLeft", "ArrowUp", " "):
        tab.key(key)
    tab.wait("growth.now.marks[7 * 16 + 7] == 1 && byId('status').textContent == 'damaged'")
    tab.key("r")
    tab.wait("growth.now.number == 1 && growth.now.done && !growth.now.marks.includes(1)")
    tab.key("n")
    tab.wait("/^#seed=\\d+$/.test(location.hash) && growth.now.seed == +location.hash.slice(6) && growth.now.done")
    tab.size(390, 844, phone=True)
    try:
        assert tab.value("document.documentElement.scrollWidth") == 390
        tab.value("scrollTo(0, 0)")
        x, y = tab.value(
            "(({left, top, width, height}) => [left + width / 2, top + height / 2])(canvas.getBoundingClientRect())"
        )
        tab.touch("touchStart", (x, y))
        tab.touch("touchMove", (x + 60, y + 30))
        tab.touch("touchEnd")
        tab.wait("growth.now.marks[8 * 16 + 8] == 1")
        assert tab.value("scrollY") == 0
        shot(tab, "phone")
    finally:
        tab.size(1100, 800)


@pytest.mark.slow
@needs_browser
def test_what_takes_its_time_can_be_interrupted(tab, tmp_path):
    """The processor pauses after every row of a step, and what another seed interrupts is left alone."""
    _, page = tissue((32, 32))
    shown(tab, tmp_path / "page.html", page)
    by(tab, "cpu")
    pauses = (
        "(() => { let n = 0; for (const _ of new Growth(page, 1, [16, 16]).step(engine.now)) n += 1; return n; })()"
    )
    assert tab.value(pauses) == 16 * 6
    tab.value("location.hash = '#seed=1'")
    tab.wait("growth.now.seed == 1")
    tab.value("location.hash = '#seed=2'")
    tab.wait("growth.now.seed == 2 && growth.now.done")
    np.testing.assert_array_equal(cells(tab), by(tab, "cpu"))


@pytest.mark.slow
@needs_browser
def test_the_processor_takes_over_where_webgl2_is_lost(tab, tmp_path):
    part, page = tissue((16, 16))
    shown(tab, tmp_path / "page.html", page, "#seed=3")
    tab.value("document.querySelector('[value=webgl2]').checked = true; grow()")
    tab.wait("engine.kind == 'webgl2' && growth.now.call >= 1")
    tab.value("growth.now.done || engine.now.gl.getExtension('WEBGL_lose_context').loseContext()")
    tab.wait("growth.now.done")
    if tab.value("engine.kind") == "webgl2":  # it was done before
        pytest.skip("the picture had grown before WebGL2 was taken away")
    assert (
        tab.value("byId('note').textContent") == "WebGL2 does not serve here; the processor does, which takes longer."
    )
    np.testing.assert_allclose(image(part, cells(tab)), drawn(part, 3, (16, 16)), atol=NEAR)


# What is refused.


def refused(config):
    part = Part(run.frozen(config), build.task(config), {}, 3)
    export_page.ruled(build.pipeline(config, {"model": part}), tuple(config.sample.size))


@pytest.mark.parametrize(
    ("page", "line"),
    [
        ("configs/fourier_diff_nca.py:smoke", "cells that are told the time alone; those of this model are told more"),
        ("configs/geca.py:smoke", "cells that perceive their neighbours and have two gated products"),
        ("configs/ddpm_unet.py:smoke", "cells that perceive their neighbours and have two gated products"),
        ("configs/vnca.py:smoke", "this run is no denoiser"),
    ],
)
def test_a_rule_that_a_page_cannot_run_is_one_line(page, line):
    with pytest.raises(UserError, match=line):
        refused(configs.load(page))


@pytest.mark.slow
def test_volumes_cascades_and_what_is_no_image_are_refused():
    with pytest.raises(UserError, match="or live in a volume"):
        refused(tiny.config(**{"model.ndim": 3, "sample.size": (8, 8, 8), "data.patch": (8, 8, 8)}))
    resolves = {"model": {"name": "resolving_nca", "channels": 12, "hidden": 8, "image_channels": 3}, "task.low": 4}
    with pytest.raises(UserError, match="are told more"):
        refused(tiny.config(**resolves))
    reads = {"name": "resolving_nca", "channels": 12, "hidden": 8, "low_resolution": False, "context_channels": 3}
    with pytest.raises(UserError, match="are told more"):
        refused(tiny.config(model=reads))
    with pytest.raises(UserError, match="perceive fewer"):
        refused(tiny.config(**{"model.neighbourhood": "von_neumann"}))
    with pytest.raises(UserError, match="a page shows images, grey or RGB"):
        refused(tiny.config(**{"model.image_channels": 2}))


@pytest.mark.slow
def test_a_page_is_at_most_so_large(monkeypatch):
    part = variant("student")
    monkeypatch.setattr(export_page, "LIMIT", 40_000)
    with pytest.raises(UserError, match=re.escape("a page has at most 0.04 MB: set --export.dtype=float16, or leave")):
        export_page.page(pipeline(part), (8, 8), "large")


# Where it lies.


@pytest.mark.slow
def test_the_page_of_the_repository_is_that_of_the_zoo():
    """launch/tissue.html is what launch/zoo.sh makes; its numbers to the rounding of another machine."""
    there, here = (HERE / "launch" / "tissue.html").read_text(), tissue((96, 96))[1]
    assert len(there.encode()) < 400_000
    numbers = re.compile(r'(?<=id="rule">).*?(?=</script>)')
    assert numbers.sub("", there) == numbers.sub("", here)
    [kept], [made] = ([json.loads(text) for text in numbers.findall(page)] for page in (there, here))
    assert jax.tree.structure(kept) == jax.tree.structure(made)
    for one, other in zip(jax.tree.leaves(kept), jax.tree.leaves(made), strict=True):
        assert one == (other if isinstance(other, str) else pytest.approx(other, rel=1e-4, abs=1e-6))
