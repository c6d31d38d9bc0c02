"""A config.json as commit f212e54 wrote it (old_configs/) is understood: the same task, data and questions."""

import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from nca_gen import build
from nca_gen import config as configs
from nca_gen.errors import UserError
from nca_gen.runtime import record

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "classifier": "classifier.py",
    "diff_nca": "diff_nca.py",
    "fourier_diff_nca": "fourier_diff_nca.py",
    "geca": "geca.py",
    "geca_ldm_laptop": "geca.py:ldm,laptop",
    "quickstart": "quickstart.py",
    "vae_kl": "vae_kl.py",
}
MADE_NO_DIFFERENCE = {"data.strict"}  # of tissue: there is one file


def file(name):
    return ROOT / "tests" / "old_configs" / f"{name}.json"


def page(name):
    return configs.load(f"{ROOT}/configs/{PAGES[name]}")


@pytest.mark.parametrize("name", PAGES)
def test_an_old_config_says_what_the_page_says_today(name):
    """But for what no run of then was told (the pipeline of an autoencoder, peers), and defaults of other verbs."""
    old, new = configs.saved(file(name)), page(name)
    assert build.task(old) == build.task(new)
    then, now = record.flat(old), record.flat(new)
    differ = {field for field in then.keys() | now.keys() if then.get(field) != now.get(field)}
    apart = ("bench", "expand", *(("generate", "sample") if name == "vae_kl" else ()))
    assert {field for field in differ if field.split(".")[0] not in apart} <= MADE_NO_DIFFERENCE


@pytest.mark.parametrize("name", PAGES)
def test_a_run_of_then_is_resumed_and_one_of_another_model_is_not(name, tmp_path):
    (tmp_path / "config.json").write_text(file(name).read_text())
    assert record.check_config(tmp_path, page(name))
    other = page(name)
    other.optimizer.lr = 7.0
    with pytest.raises(UserError, match=r"was begun with config\.optimizer\.lr="):
        record.check_config(tmp_path, other)


def test_a_field_that_is_new_had_its_default(tmp_path, capsys):
    """A run that was begun before there was a field goes on as if it had said the default, and with that alone."""
    stored = page("geca").to_dict()
    del stored["task"]["vb"], stored["train"]["init"], stored["codec"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert record.check_config(tmp_path, page("geca"))
    assert capsys.readouterr().out == ""
    other = page("geca")
    other.task.vb = 2.0
    with pytest.raises(UserError, match=r"was begun with config\.task\.vb=1\.0, not 2\.0"):
        record.check_config(tmp_path, other)


def test_a_cosine_can_be_made_longer(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(page("quickstart").to_dict()))
    longer = page("quickstart")
    longer.optimizer.cosine_steps = -1
    assert record.check_config(tmp_path, longer)
    assert capsys.readouterr().out == "config.optimizer.cosine_steps: 2000 before, -1 from here on\n"


def test_one_of_today_is_as_it_was():
    config = page("geca").to_dict()
    assert configs.migrated(config) == config


def test_what_was_asked_of_evaluation():
    """Every old field, by its new place."""
    old = json.loads(file("geca").read_text())
    old["eval"] |= {"samplers": ["ddim:10"], "heredity": ["none"], "guidance": [1.0], "growth": [2, 4], "n": 3}
    new = build.completed(ConfigDict(configs.tuples(configs.migrated(old))))
    assert (new.held.n, new.held.train, new.held.split) == (3, 1080, "test")
    assert new.evals.scores.metrics == ("swd", "drift", "neighbours")
    assert {name: new.evals[name].every for name in ("scores", "nearest", "films", "grades")} == dict.fromkeys(
        ("scores", "nearest", "films", "grades"), 8000
    )
    assert (new.evals.samplers.rows, new.evals.samplers.every) == (("ddim:10",), 0)
    assert (new.evals.heredity.inherit, new.evals.heredity.guidance) == (("none",), (1.0,))
    assert new.evals.growth.steps == (2, 4)


def test_each_pipeline_gets_its_own_fields():
    old = json.loads(file("diff_nca").read_text())
    for name, fields in configs.PAINTED.items():
        old["generate"]["name"] = name
        generate = configs.migrated(old)["generate"]
        assert set(generate) == {"name", *fields}
        build.completed(ConfigDict(configs.tuples({"generate": generate})))
