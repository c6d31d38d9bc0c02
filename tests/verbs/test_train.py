import contextlib
import json
import math
import signal

import jax
import numpy as np
import pytest
import toy

from nca_gen.errors import UserError
from nca_gen.runtime import checkpoint


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run that nothing disturbs: its final state and its curve."""
    workdir = tmp_path_factory.mktemp("plain")
    return toy.run(workdir), toy.curve(workdir), workdir


@pytest.mark.slow
def test_it_learns_and_each_line_is_the_mean_of_its_steps(plain, tmp_path):
    toy.run(tmp_path, **{"train.log_every": 1})
    single, double = toy.curve(tmp_path), plain[1]
    assert [x["step"] for x in single] == list(range(1, 9))
    assert [x["step"] for x in double] == [2, 4, 6, 8]
    for name in ("loss", "grad_norm"):
        pairs = np.reshape([x[name] for x in single], (4, 2))
        np.testing.assert_allclose([x[name] for x in double], pairs.mean(1), rtol=1e-12)


@pytest.mark.slow
def test_the_loop_is_the_task_s_step_on_the_pipeline_s_batches(plain):
    """Written out by hand, without mesh, donation, compilation ahead or log."""
    from nca_gen.data import pipeline

    config, task = toy.config(), toy.Task()
    batches = pipeline.batches(toy.splits()["train"], patch=(8, 8), batch=4, seed=7, flips=True)
    step, losses, state = jax.jit(task.step), [], None
    for _, batch in zip(range(config.train.steps), batches, strict=False):
        state = state or jax.jit(task.init)(toy.root(), batch)
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose([x["loss"] for x in plain[1]], np.reshape(losses, (4, 2)).mean(1), rtol=1e-5)
    for path, expected in toy.plain(state).items():
        np.testing.assert_allclose(toy.plain(plain[0])[path], expected, rtol=1e-4, atol=1e-6, err_msg=path)


@pytest.mark.slow
def test_the_workdir_holds_all_that_the_report_reads(plain):
    workdir = plain[2]
    assert json.loads((workdir / "config.json").read_text())["data"]["patch"] == [8, 8]
    assert json.loads((workdir / "environment.json").read_text())["parameters"] == 3 * 3 + 1
    assert checkpoint.steps(workdir) == [4, 8]
    assert len(list(workdir.glob("events.*"))) == 1


@pytest.mark.slow
def test_it_says_where_at_the_start_and_at_the_end(tmp_path, capsys):
    toy.run(tmp_path)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"training to step 8 on 4 cpu device(s) in {tmp_path}"
    assert out[-1] == f"trained to step 8; the results are in {tmp_path}"


@pytest.mark.slow
def test_checkpoints_when_due_at_the_end_and_no_more_than_kept(tmp_path):
    toy.run(tmp_path, **{"train.steps": 7, "train.checkpoint_every": 2, "train.keep": 2})
    assert checkpoint.steps(tmp_path) == [6, 7]


class Evaluations:
    """Notes what it is called with, and leaves scores as an evaluation does."""

    def __init__(self, fail=()):
        self.calls, self.fail = [], list(fail)

    def __call__(self, config, task, params, splits, workdir, step, *_):
        self.calls.append((step, np.asarray(params["kernel"])))
        if step in self.fail:
            self.fail.remove(step)
            raise OSError("stopped in the middle")
        folder = workdir / f"eval/{step:08d}"
        folder.mkdir(parents=True)
        (folder / "scores.json").write_text("{}")
        return {"eval/score": 1.0}


@pytest.mark.slow
def test_evaluates_the_average_when_due_and_at_the_end(tmp_path, plain):
    evaluate = Evaluations()
    state = toy.run(tmp_path, evaluate=evaluate, **{"evals.scores.every": 3})
    assert [step for step, _ in evaluate.calls] == [3, 6, 8]
    np.testing.assert_array_equal(evaluate.calls[-1][1], state.ema["kernel"])
    assert toy.digest(state) == toy.digest(plain[0])


@pytest.mark.slow
def test_an_evaluation_that_was_cut_is_done_again_and_no_other(tmp_path):
    evaluate = Evaluations(fail=[4, 8])
    changes = {"evals.scores.every": 2}
    for seen in ([2, 4], [2, 4, 4, 6, 8], [2, 4, 4, 6, 8, 8]):
        with contextlib.suppress(OSError):
            toy.run(tmp_path, evaluate=evaluate, **changes)
        assert [step for step, _ in evaluate.calls] == seen
    toy.run(tmp_path, evaluate=evaluate, **changes)
    assert [step for step, _ in evaluate.calls] == seen  # all done: nothing is trained nor scored


@pytest.mark.slow
def test_a_finished_run_can_be_made_longer(tmp_path, plain):
    toy.run(tmp_path, **{"train.steps": 4})
    assert toy.digest(toy.run(tmp_path)) == toy.digest(plain[0])
    assert toy.digest(toy.run(tmp_path)) == toy.digest(plain[0])
    assert toy.curve(tmp_path) == plain[1]


@pytest.mark.slow
@pytest.mark.parametrize("at", [5, 6, 8])
def test_nan_stops_with_the_step_and_is_never_saved(tmp_path, at):
    """At, before and after a line of the log; 8 is also a checkpoint and the end."""
    told = f"loss is nan at step {at}, .*; the last good checkpoint is of step 4. Lower config.optimizer.lr"
    with pytest.raises(UserError, match=told):
        toy.run(tmp_path, toy.Task(nan_at=at))
    assert checkpoint.steps(tmp_path) == [4]
    assert max(x["step"] for x in toy.curve(tmp_path)) < at


@pytest.mark.slow
def test_a_checkpoint_between_two_lines_ends_a_line(tmp_path):
    """So the loss is looked at before anything is saved, and a resumed curve is cut where the whole one is."""
    changes = {"train.log_every": 4, "train.checkpoint_every": 3}
    toy.run(tmp_path / "whole", **changes)
    assert [x["step"] for x in toy.curve(tmp_path / "whole")] == [3, 4, 6, 8]
    with pytest.raises(UserError, match=r"loss is nan at step 6, .* of step 3"):
        toy.run(tmp_path / "cut", toy.Task(nan_at=6), **changes)
    assert checkpoint.steps(tmp_path / "cut") == [3]
    toy.run(tmp_path / "cut", **changes)
    assert toy.curve(tmp_path / "cut") == toy.curve(tmp_path / "whole")


@pytest.mark.slow
def test_rollback_goes_on_with_other_keys_and_other_data(tmp_path, plain, capsys):
    state = toy.run(tmp_path, toy.Task(nan_at=6), **{"train.on_divergence": "rollback"})
    assert "loss is nan at step 6: back to step 4, rollback 1 of 2" in capsys.readouterr().out
    expected = jax.random.fold_in(toy.root(), 1)
    np.testing.assert_array_equal(jax.random.key_data(state.key), jax.random.key_data(expected))
    before, after = plain[1], toy.curve(tmp_path)
    assert after[:2] == before[:2]
    assert [x["step"] for x in after] == [2, 4, 6, 8]
    assert [x.get("rollbacks") for x in after] == [None, None, 1.0, 1.0]
    assert all(abs(a["loss"] - b["loss"]) > 1e-4 for a, b in zip(after[2:], before[2:], strict=True))
    assert all(math.isfinite(x["loss"]) for x in after)


@pytest.mark.slow
def test_rollback_reorders_the_data_by_itself(tmp_path):
    """The same task without randomness: what differs after a rollback is the data alone."""
    calm = toy.run(tmp_path / "a", toy.Task(noise=0.0))
    back = toy.run(tmp_path / "b", toy.Task(noise=0.0, nan_at=6), **{"train.on_divergence": "rollback"})
    assert abs(calm.params["kernel"] - back.params["kernel"]).max() > 1e-5


@pytest.mark.slow
def test_a_run_resumed_after_a_rollback_keeps_its_course(tmp_path):
    task, changes = toy.Task(nan_at=3), {"train.on_divergence": "rollback"}
    whole = toy.run(tmp_path / "a", task, **changes)
    toy.run(tmp_path / "b", task, **changes, **{"train.steps": 4})
    assert toy.digest(toy.run(tmp_path / "b", task, **changes)) == toy.digest(whole)
    assert toy.curve(tmp_path / "a") == toy.curve(tmp_path / "b")


@pytest.mark.slow
def test_rollbacks_are_counted_and_end(tmp_path):
    with pytest.raises(UserError, match="loss is nan at step 6, after 2 rollbacks; the last good checkpoint"):
        toy.run(tmp_path, toy.Task(nan_at=6, always=True), **{"train.on_divergence": "rollback"})
    assert all(x["step"] < 6 for x in toy.curve(tmp_path))


@pytest.mark.slow
def test_a_checkpoint_that_led_to_the_same_end_twice_is_not_tried_again(tmp_path, capsys):
    changes = {"train.on_divergence": "rollback", "train.checkpoint_every": 2, "train.max_rollbacks": 3}
    with pytest.raises(UserError):
        toy.run(tmp_path, toy.Task(nan_at=7, always=True), **changes)
    backs = [line.split(":")[1] for line in capsys.readouterr().out.splitlines() if "back to" in line]
    assert backs == [f" back to step {s}, rollback {n} of 3" for n, s in ((1, 6), (2, 4), (3, 6))]


@pytest.mark.slow
def test_a_loss_far_above_its_median_is_a_divergence(tmp_path):
    changes = {"train.log_every": 1, "train.divergence": 5.0}
    with pytest.raises(UserError, match=r"the loss has risen to .* at step 7.*last good checkpoint is of step 4"):
        toy.run(tmp_path, toy.Task(spike_at=7), **changes)
    changes["train.on_divergence"] = "rollback"
    assert int(toy.run(tmp_path, toy.Task(spike_at=7), **changes).step) == 8


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_where_it_is_and_the_run_goes_on_from_there(tmp_path, plain, number, capsys):
    with pytest.raises(SystemExit) as e:
        toy.run(tmp_path, evaluate=toy.send(number), **{"evals.scores.every": 2})
    assert e.value.code == 128 + number
    assert checkpoint.steps(tmp_path) == [3]
    assert "stopped at step 3 of 8; the same command goes on from there" in capsys.readouterr().out
    assert toy.digest(toy.run(tmp_path)) == toy.digest(plain[0])


@pytest.mark.slow
def test_another_config_is_refused_also_where_config_json_is_gone(tmp_path):
    toy.run(tmp_path, **{"train.steps": 4})
    with pytest.raises(UserError, match=r"was begun with config\.optimizer\.lr=0\.01, not 0\.5"):
        toy.run(tmp_path, **{"optimizer.lr": 0.5})
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="was begun with another config"):
        toy.run(tmp_path, **{"optimizer.lr": 0.5})
    with pytest.raises(UserError, match=r"params/kernel is \(3, 3, 1, 1\) .* and \(5, 3, 1, 1\)"):
        toy.run(tmp_path, toy.Task(width=5))
    assert not (tmp_path / "config.json").exists()
    assert int(toy.run(tmp_path).step) == 8


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train.batch": 6}, "a batch of 6 does not divide over 4 devices"),
        ({"mesh.data": 8}, "needs 8 devices and there are 4"),
        ({"train.on_divergence": "rolback"}, "did you mean rollback"),
    ],
)
def test_what_cannot_run_is_said_at_once(tmp_path, changes, told):
    with pytest.raises(UserError, match=told):
        toy.run(tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file: File exists"):
        toy.run(tmp_path / "file")


def test_the_average_can_be_read_back_for_sampling(plain):
    state, _, workdir = plain
    abstract = jax.eval_shape(toy.Task().init, toy.root(), {"image": np.zeros((4, 8, 8, 1), np.float32)})
    again, meta = checkpoint.restore_params(workdir, abstract)
    assert meta["step"] == 8
    assert toy.digest(toy.Task().eval_params(again)) == toy.digest(state.ema)


def test_train_is_short():
    import nca_gen.verbs.train

    with open(nca_gen.verbs.train.__file__) as f:
        assert len(f.readlines()) < 150
