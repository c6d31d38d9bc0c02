"""Every file in configs/: what it promises, and that its smoke form trains."""

import ast
import json
import math
from functools import partial, reduce
from pathlib import Path

import golden
import jax
import pytest
from PIL import Image

from nca_gen import build, main, sections
from nca_gen import config as configs
from nca_gen.data import pipeline as batches
from nca_gen.data import retina_phantom
from nca_gen.errors import UserError
from nca_gen.metrics import total_variation
from nca_gen.verbs import evaluate

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(f.relative_to(ROOT).as_posix() for f in (ROOT / "configs").glob("*.py"))


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("path", CONFIGS)
def test_a_config_begins_with_its_command(path):
    assert f"python -m nca_gen.main --config={path}" in ast.get_docstring(ast.parse(Path(path).read_text()))


@pytest.mark.parametrize("path", CONFIGS)
def test_a_config_survives_its_run(path, tmp_path):
    """What is written to config.json is read back as it was: tuples, ints and floats included."""
    config = configs.load(path)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert repr(configs.saved(tmp_path / "config.json").to_dict()) == repr(config.to_dict())


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS)
def test_every_form_is_understood(path):
    """Each form of a config builds a task, and has the fields of its data set; ``smoke``, the last, goes with any."""
    _, _, functions = configs.page(path)
    forms = [*configs.forms(functions)]
    assert forms[-1] == "smoke"
    for form in ["", *forms, *(f"{form},smoke" for form in forms)]:
        build.task(configs.load(f"{path}:{form}"))


@pytest.mark.parametrize("path", CONFIGS)
def test_a_page_says_only_what_differs(path):
    """No field that a page states is the default anyway, but where another form or the reader needs it there."""
    told = {"data.path", "sample.size", "codec.block", "model.weights", "model.image_channels"}
    told |= {"data.reduce", "data.tissue", "diffusion.prediction"}
    page, same = configs.stated(path), []
    for section in set(page) - {"evals", "parts", "seed"}:
        usual = build.defaults(section, page[section].get("name", build.USUAL.get(section, "")))
        same += [f"{section}.{field}" for field, value in page[section].items() if usual.get(field) == value]
    assert set(same) <= told


def test_pages_share_by_import_from_anywhere(tmp_path, monkeypatch):
    """Whatever lies beside a page can be imported by it, and is not there for the next page, which may have its own."""
    for name, n in (("one", 1), ("two", 2)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "beside.py").write_text(f"SEED = {n}\n\ndef form(config):\n    config.seed = 10 + SEED\n")
        page = "from ml_collections import ConfigDict\nimport beside\nfrom beside import form\n"
        (folder / "page.py").write_text(page + "def get_config():\n    return ConfigDict({'seed': beside.SEED})\n")
    monkeypatch.chdir(tmp_path)
    assert [configs.load(f"{name}/page.py").seed for name in ("one", "two", "one")] == [1, 2, 1]
    assert configs.load("two/page.py:form").seed == 12


@pytest.mark.parametrize("size", ["", ",laptop", ",hippocampus", ",smoke"])
@pytest.mark.parametrize(("rival", "first"), [("ldm3d", "vae2d"), ("medical_diffusion", "vae3d"), ("lvd", "vae2d")])
def test_a_rival_of_ca_ldm_diffuses_what_its_autoencoder_makes(rival, first, size):
    """Of a whole volume: its sides halved as often as the autoencoder does, the number of slices as it is in slices."""
    autoencoder, diffusion = configs.stages(f"configs/ca_ldm.py:{rival}{size}")
    assert (autoencoder.name, diffusion.name) == (first, "diff3d")
    assert diffusion.config.data.path == f"../{first}"
    seen, model = autoencoder.config, build.model(autoencoder.config)
    depth, *sides = seen.encode.patch
    assert seen.data.get("resize", seen.data.get("size")) == (depth, *sides)
    shape = tuple(side // model.factor for side in sides)
    assert diffusion.config.data.patch == (depth if first == "vae2d" else depth // model.factor, *shape)
    assert diffusion.config.sample.size == diffusion.config.data.patch
    assert build.model(diffusion.config).image_channels == model.latent_channels
    assert build.model(diffusion.config).slicewise == (rival == "lvd")


@pytest.mark.slow
@pytest.mark.parametrize("images", ["faces", "folder", "celeba", "bcss"])
def test_rivals_of_a_table_see_the_same_images(images):
    """In their small sizes too, whose pages have sizes of their own; and every one of them can take them in."""
    stages = configs.stages(f"configs/table2.py:{images},laptop")
    assert len({json.dumps(stage.config.data.to_dict()) for stage in stages}) == 1
    for stage in stages[:-1:2] if images == "faces" else ():
        config = build.completed(stage.config)
        batch = {"image": jax.ShapeDtypeStruct((2, *config.data.patch, 3), "float32")}
        jax.eval_shape(partial(build.task(config).init, batch=batch), jax.random.key(0))


@pytest.mark.parametrize(("form", "minutes"), [("", 36), (":brief", 12), (":smoke", None)])
def test_systems_of_slides_have_as_many_minutes_and_their_own_networks(form, minutes):
    """Nine of URCDM share what three of the others do; each stands on those of its own system."""
    stages, spent = configs.stages(f"configs/slides_table.py{form}"), {}
    for stage in stages:
        system, _, network = stage.name.partition("_")
        if minutes:
            spent[system] = spent.get(system, 0) + sections.amount(stage.config.budget.of).size / 60
        beside = [one.name for one in stages[: stages.index(stage)] if one.name.startswith(f"{system}_")]
        assert [*stage.config.parts.values()] == [f"../{name}" for name in beside]
        assert stage.config.data.name == "slides"
        if system != "automata":
            assert stage.config.generate.place == network
            surrounded = system == "urcdm" and not network.startswith("mag0")
            assert build.model(stage.config).context_channels == 3 * surrounded
    each = pytest.approx(minutes or 0, rel=1e-5)
    assert spent == (dict.fromkeys(("automata", "urcdm", "outpainting"), each) if minutes else {})


@pytest.mark.slow
def test_rivals_of_volumes_are_judged_by_the_same_volumes(tmp_path):
    """Each has the budget of two steps, and its parameters; real volumes vary as the phantom's do, as it is drawn."""
    flags = ["--config=configs/volumes.py:smoke", "--mode=chain", f"--workdir={tmp_path}", "--config.mesh.data=1"]
    assert main.run(flags) == 0
    rows = {row["model"]: row for row in json.loads((tmp_path / "table" / "study.json").read_text())["rows"]}
    real = batches.examples(retina_phantom.splits(40, (32, 32, 32))["test"], patch=(16, 16, 16), n=4, seed=0)["image"]
    usual = total_variation.distance(total_variation.statistics(real), total_variation.statistics(real))
    for stage in configs.stages("configs/volumes.py:smoke")[:-1]:
        row, model = rows[stage.name], build.model(build.completed(stage.config))
        assert (row["step"], row["counts"]["real"], model.ndim) == (2, 4, 3)
        assert row["parameters"] == sum(x.size for x in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))))
        assert row["scores"]["total_variation_real"] == pytest.approx(usual["total_variation"], rel=1e-6)
        with Image.open(tmp_path / "table" / row["picture"]) as picture:
            assert picture.width >= 4 * 3 * 16  # of each volume three planes
    assert [*rows] == ["diff_nca", "geca", "unet"]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["", "phantom,"])
def test_a_rival_of_automata_of_volumes_is_twice_as_large(form):
    """In parameters, to a tenth; no model has two millions."""
    count = lambda model: sum(
        math.prod(x.shape) for x in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0)))
    )
    of = lambda name: count(build.model(configs.load(f"configs/volumes.py:{form}{name}")))
    automata, rival = [of("diff_nca"), of("geca")], of("unet")
    assert (automata, rival) == ([85_992, 91_872], 176_760)
    assert all(1.9 < rival / n < 2.1 for n in automata)


@pytest.mark.parametrize(
    ("page", "forms", "said"),
    [
        ("nca_cascade.py", "stage2,quickstart", {"model.channels": 48, "data.patch": (64, 64), "train.steps": 1500}),
        ("nca_cascade.py", "stage2,laptop", {"model.hidden": 128, "codec.block": 2, "train.steps": 900}),
        ("nca_cascade.py", "slides,stage2,laptop", {"data.name": "slides", "data.patch": (64, 64), "model.steps": 4}),
        ("nca_cascade.py", "stage1,fourier,smoke", {"model.name": "fourier_diff_nca", "data.patch": (16, 16)}),
        ("urcdm.py", "mag1,stage2,laptop", {"model.width": 24, "data.reduce": 8, "train.steps": 500}),
        ("nca_cascade.py", "stage1,quickstart,fourier", {"model.window": 5, "task.margin": 12}),
        ("urcdm.py", "outpainting,mag2", {"model.context_channels": 0, "generate.place": "mag2_stage3"}),
        ("quickstart.py", "distil,smoke", {"train.steps": 4, "task.name": "distil"}),
        ("vae_kl.py", "laptop,sd", {"model.name": "vae_kl", "train.steps": 1000, "encode.batch": 4}),
        ("slides_table.py", "brief,smoke", {"budget.of": "2steps"}),
        ("urcdm.py", "outpainting,stage1,laptop", {"model.width": 32, "parts": {}, "data.context_factor": 1}),
        ("ca_ldm.py", "nhae,laptop,phantom", {"model.width": 8, "data.size": (64, 64, 64), "train.steps": 200}),
        ("ca_ldm.py", "ldm3d,diff3d,smoke", {"data.path": "../vae2d", "data.patch": (16, 4, 4)}),
        ("ca_ldm.py", "laptop,published", {"generate.keep": 1, "data.resize": (64, 64, 64)}),
        ("table2.py", "unet_s,celeba,laptop", {"data.name": "celeba", "model.image_channels": 12}),
        ("volumes.py", "unet,phantom,smoke", {"model.width": 8, "data.name": "retina_phantom"}),
        ("ca_ldm.py", "multislice,phantom,smoke,layers", {"data.labels": "layers", "data.size": (16, 16, 16)}),
        ("ca_ldm.py", "diff3d,smoke,vessels", {"model.map_classes": 5, "sample.guidance": 2.0, "sample.steps": 4}),
        ("diff_nca.py", "laptop,volumes", {"model.ndim": 3, "model.image_channels": 8}),
        ("diff_nca.py", "laptop,distil", {"train.steps": 1000, "optimizer.lr": 0.00075, "sample.steps": 4}),
        ("ddpm_unet.py", "laptop,b,phantom", {"model.width": 64, "model.ndim": 3, "train.steps": 2000}),
        ("fourier_diff_nca.py", "laptop,s10", {"model.steps": 10, "model.window": 8}),
        ("geca.py", "ldm,laptop,hippocampus", {"model.name": "unet", "model.ndim": 3, "model.width": 32}),
        ("geca.py", "laptop,xs", {"model.embed": 384, "train.steps": 4000}),
        ("segment.py", "images,smoke", {"model.ndim": 3, "data.patch": (8, 16, 8)}),
        ("segment.py", "vessels,phantom,laptop", {"data.labels": "vessels", "data.patch": (16, 32, 16)}),
        ("vnca.py", "faces,laptop", {"data.resize": (32, 32), "data.patch": (32, 32)}),
    ],
)
def test_forms_come_in_the_order_of_their_page(page, forms, said):
    """However they are written: none undoes what another one asks for."""
    words = forms.split(",")
    first = configs.load(f"configs/{page}:{forms}").to_dict()
    assert configs.load(f"configs/{page}:{','.join(reversed(words))}").to_dict() == first
    fields = {path: reduce(lambda section, name: section[name], path.split("."), first) for path in said}
    assert fields == said


def test_forms_that_exclude_each_other_are_refused():
    with pytest.raises(UserError, match=r"^quickstart learns the field that ships: leave out slides, or take slides,"):
        configs.load("configs/nca_cascade.py:quickstart,slides")
    with pytest.raises(UserError, match=r"^refiner is no stage of ldm3d, which has vae2d and diff3d$"):
        configs.load("configs/ca_ldm.py:refiner,ldm3d")


def test_a_form_that_picks_another_model_leaves_no_field_behind():
    """Of GeCA's fields the U-Net has what it knows too, and for the rest its own defaults."""
    config = configs.load("configs/geca.py:xs,ldm")
    assert (config.model.name, config.model.classes, config.model.width) == ("unet", 5, 64)
    assert "embed" not in config.model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "paper", "steps"),
    [
        ("diff_nca.py", 331_464, 20),
        ("fourier_diff_nca.py", 1_101_216, 20),
        ("fourier_diff_nca.py:c96_h512", 1_101_216, 20),
        ("fourier_diff_nca.py:c128_h640", 1_849_632, 20),
        ("fourier_diff_nca.py:c96_h256", 737_184, 20),
        ("fourier_diff_nca.py:c48_h512", 525_792, 20),
        ("fourier_diff_nca.py:s10", 1_101_216, 10),
        ("fourier_diff_nca.py:s30", 1_101_216, 30),
    ],
)
def test_sizes_are_those_of_the_paper(spec, paper, steps):
    """The paper also counts a normalisation of 2 * hidden parameters that its forward pass never reaches."""
    model = build.model(configs.load(f"configs/{spec}"))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) + 2 * model.hidden == paper
    assert model.steps == steps


@pytest.mark.parametrize("path", golden.PAGES)
def test_a_smoke_form_is_asked_at_its_end(path):
    """Whatever its number of steps: all evaluators that come in training then, and none before, nor is it saved."""
    for steps in (4, 30):
        config = configs.override(configs.stated(f"{path}:smoke"), [f"--config.train.steps={steps}"])
        asked = [evaluate.due(config, step, {}) for step in range(1, steps + 1)]
        assert asked == [()] * (steps - 1) + [tuple(name for name, of in config.evals.items() if of.every)]
        assert config.train.checkpoint_every > steps


@pytest.mark.slow
@pytest.mark.parametrize("path", golden.PAGES)
def test_the_smoke_form_trains(path, tmp_path):
    """To the golden numbers of ``golden.json``: losses, scores and samples as they always were."""
    config = configs.load(f"{path}:smoke")
    flags = [f"--config={path}:smoke", f"--workdir={tmp_path}", "--config.mesh.data=1"]
    assert main.run(flags) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines][-1] == config.train.steps
    if (
        config.task.get("loss") == "l1_l2"
        and config.diffusion.prediction == "eps"
        and config.model.get("start", "zero") == "zero"
    ):
        # A network that has learned nothing predicts 0 for unit noise e: E[e^2] + E|e|; one pixel deviates by 2.
        pixels = config.train.batch * math.prod(config.data.patch) * 3
        assert abs(lines[0]["loss"] - (1 + math.sqrt(2 / math.pi))) < 4 * 2 / math.sqrt(pixels)
    [evaluation] = (tmp_path / "eval").iterdir()
    assert evaluation.name == f"{config.train.steps:08}"
    scores = lambda: {p.name: json.loads(p.read_text()).get("scores", {}) for p in evaluation.glob("*.json")}
    before = scores()
    for name, section in config.evals.items():
        assert set(section.get("metrics", ())) <= set(before.get(f"{name}.json", section))
    assert all(math.isfinite(value) for found in before.values() for value in found.values())
    assert "<html" in (tmp_path / "report.html").read_text()
    # The same command again finds everything done; the run alone is enough to sample and score it again.
    assert main.run(flags) == 0
    use = "generate" if "sample" in config else "evaluate"
    assert main.run([f"--mode={use}", f"--workdir={tmp_path}"]) == 0
    assert main.run(["--mode=evaluate", f"--workdir={tmp_path}"]) == 0
    assert scores() == before
    then = json.loads(golden.FILE.read_text())[path]
    assert [*golden.differences(golden.numbers(tmp_path), then)] == []


def test_a_number_that_moved_is_found():
    then = {"parameters": 5, "curve/loss": [1.0, 2.0], "scores/swd": 400.0, "samples/pixels": [3.0, 254.0]}
    rounding = {"curve/loss": [1.00005, 2.0], "scores/swd": 403.0, "samples/pixels": [4.0, 253.0]}
    assert [*golden.differences(then | rounding, then)] == []
    for name, value in {
        "parameters": 6,
        "curve/loss": [1.0, 2.001],
        "samples/pixels": [3.0, 252.0],
        "new": 1.0,
    }.items():
        assert [*golden.differences(then | {name: value}, then)] == [f"{name} was {then.get(name)}, is {value}"]
