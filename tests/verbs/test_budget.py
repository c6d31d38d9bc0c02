"""--mode=budget: how many steps a budget buys, which rate wins, and that training heeds it."""

import json

import pytest
import tiny

from nca_gen import build
from nca_gen.errors import UserError
from nca_gen.runtime import budget as reckoned
from nca_gen.runtime import checkpoint
from nca_gen.runtime.log import DivergedError
from nca_gen.sections import amount
from nca_gen.verbs import budget, train
from nca_gen.verbs.describe_work import call_gflop


@pytest.mark.parametrize(
    ("text", "size", "unit"), [("2000steps", 2000, "steps"), ("1.5min", 90, "min"), ("3e15flop", 3e15, "flop")]
)
def test_amounts(text, size, unit):
    assert amount(text) == (size, unit)


@pytest.mark.parametrize("text", ["", "10", "min", "0steps", "-1min", "1.2.3min", "10 min", "1e999flop", "5hours"])
def test_what_is_no_amount(text):
    with pytest.raises(UserError, match=f"config.budget.of={text}: give a number and a unit, such as 2000steps"):
        amount(text)


def config(**changes):
    return tiny.config(**{"optimizer.cosine_steps": 4, "optimizer.lr": 1e-3} | changes)


def asked(**changes):
    c = config()
    with c.unlocked():
        c.budget = {"of": "1000steps", "rates": (0.1, 1.0, 10.0), "share": 0.2, "like": ""} | changes
    return c


@pytest.fixture
def tried(monkeypatch):
    """In place of training: the loss is the distance from a rate of 0.01, and a rate of 0.1 diverges."""
    runs = []

    def fake(config, folder):
        runs.append((folder.name, config.train.steps, config.optimizer.lr))
        if config.optimizer.lr > 0.05:
            raise DivergedError("the loss is nan")
        folder.mkdir(parents=True)
        loss = abs(config.optimizer.lr - 0.01)
        lines = [{"step": k + 1, "loss": loss + (k < 6), "images_per_second": 2.0} for k in range(8)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    monkeypatch.setattr(budget, "train", fake)
    return runs


def test_the_best_of_three_rates(tried, tmp_path):
    """Each takes a fifth of the steps; the last quarter of the curve decides; nothing is done twice."""
    found = budget.budget(asked(rates=(1.0, 10.0, 100.0)), tmp_path)
    assert [run[1] for run in tried] == [200] * 3
    assert [run[2] for run in tried] == pytest.approx([1e-3, 1e-2, 1e-1])
    assert [one["loss"] for one in found["tries"]] == pytest.approx([0.009, 0.0, float("inf")])
    assert (found["steps"], found["factor"]) == (1000, 10.0)
    again = budget.budget(asked(rates=(1.0, 10.0, 100.0)), tmp_path)
    assert (len(tried), again["factor"], again["tries"][2]["loss"]) == (3, 10.0, None)
    settled = reckoned.settled(asked(), tmp_path)
    assert (settled.train.steps, settled.optimizer.lr, settled.optimizer.cosine_steps) == (1000, 0.01, -1)
    assert reckoned.settled(settled, tmp_path) is settled  # as config.json of the run has it, once and not again


def test_another_run_takes_its_steps_and_rate(tried, tmp_path):
    budget.budget(asked(), tmp_path / "s0")
    n = len(tried)
    (tmp_path / "s1").mkdir()
    found = budget.budget(asked(like="../s0"), tmp_path / "s1")
    assert (found["steps"], found["factor"], len(tried)) == (1000, 10.0, n)
    with pytest.raises(UserError, match=r"config.budget.like=../s2 holds no budget.json"):
        budget.budget(asked(like="../s2"), tmp_path / "s1")


@pytest.mark.slow
def test_flop_and_minutes_buy_steps(tried, tmp_path):
    c = asked(of="2e9flop", rates=(1.0,))
    cost = 3e9 * 4 * call_gflop(build.task(c), (16, 16, 3))
    assert budget.budget(c, tmp_path / "flop")["steps"] == int(2e9 / cost) > 0
    assert tried == []  # one rate needs no trial
    found = budget.budget(asked(of="1min", rates=(1.0,)), tmp_path / "min")
    assert (found["cost"], found["steps"]) == (2.0, 30)  # 4 images a step, 2 a second


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"of": ""}, "say how much: --config.budget.of=30min"),
        ({"of": "1flop"}, "config.budget.of=1flop buys no step of this model"),
        ({"rates": (100.0, 1000.0)}, "training diverges at every rate of config.budget.rates"),
    ],
)
def test_errors_are_one_line(tried, tmp_path, changes, line):
    with pytest.raises(UserError, match=line):
        budget.budget(asked(**changes), tmp_path)
    assert not (tmp_path / reckoned.FILE).exists()


def test_training_waits_for_the_reckoning(tmp_path):
    with pytest.raises(UserError, match=r"config\.budget\.of=1000steps is not reckoned yet: run --mode=budget first"):
        train.train(asked(), tmp_path)


@pytest.mark.slow
def test_training_heeds_it(tmp_path):
    """For as many steps, and no more; the trials lie in folders of their own."""
    c = asked(of="3steps", rates=(0.5, 1.0), share=0.5)
    factor = budget.budget(c, tmp_path)["factor"]
    train.train(c, tmp_path)
    assert checkpoint.steps(tmp_path) == [3]
    assert sorted(path.name for path in (tmp_path / "rates").iterdir()) == ["x0.5", "x1"]
    stored = json.loads((tmp_path / "config.json").read_text())
    assert (stored["optimizer"]["lr"], stored["train"]["steps"], stored["budget"]["of"]) == (factor * 1e-3, 3, "")
