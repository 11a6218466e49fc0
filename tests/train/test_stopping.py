"""A run ends when validation says so, with the best state in hand, resumed or not."""

import os
import signal

import pytest

from medjax import train
from medjax.train.checkpoint import saved_steps
from medjax.train.stopping import StoppingConfig, past_scores
from tests.train.tiny import Stream, init, loss

SCORES = {1: 0.5, 2: 0.7, 3: 0.6, 4: 0.7, 5: 0.65, 6: 0.9}
"""Scripted: best at 2 (an equal score later is no better), so 5 is the third wait."""


def run(workdir, *, patience=3, at=None, higher=True, name="auc", every=1):
    """Evaluates after every so many steps; SIGTERM after step `at`.

    Where not all are evaluated, all are saved, and the first evaluation is best.
    """

    def hook(state, step):
        del state
        if step == at:
            os.kill(os.getpid(), signal.SIGTERM)
        score = SCORES[step] if every == 1 else 1 / step
        return {"auc": score if higher else -score}

    return train.fit(
        init,
        loss,
        Stream(),
        workdir=workdir,
        train=train.TrainConfig(
            steps=6,
            eval_every=every,
            checkpoint_every=1000 if every == 1 else 1,
            keep=1,
        ),
        evals=[hook],
        stopping=StoppingConfig(name, patience, higher_is_better=higher),
    )


@pytest.mark.parametrize("higher", [True, False])
def test_it_ends_after_waiting_and_keeps_the_best(tmp_path, higher):
    assert int(run(tmp_path, higher=higher).step) == 5
    assert saved_steps(tmp_path) == [2, 5]
    scores = past_scores(tmp_path, "auc")
    rule = StoppingConfig("auc", higher_is_better=higher)
    assert list(scores) == [1, 2, 3, 4, 5] and rule.best(scores) == 2
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert int(run(tmp_path, higher=higher).step) == 5  # nothing more to do
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_stopped_and_started_again_it_has_waited_as_long(tmp_path):
    with pytest.raises(SystemExit):
        run(tmp_path, at=3)
    assert 2 in saved_steps(tmp_path)
    assert int(run(tmp_path).step) == 5
    assert saved_steps(tmp_path) == [2, 5]


def test_what_is_saved_before_it_is_evaluated_does_not_drive_out_the_best(tmp_path):
    with pytest.raises(SystemExit):
        run(tmp_path, at=3, every=3)
    assert saved_steps(tmp_path) == [3, 4]
    # Started again it saves 5 before anything is evaluated.
    run(tmp_path, every=3)
    assert saved_steps(tmp_path) == [3, 6]


def test_with_patience_it_goes_on_and_the_newest_may_be_best(tmp_path):
    assert int(run(tmp_path, patience=4).step) == 6
    assert saved_steps(tmp_path)[-1] == 6
    assert StoppingConfig("auc").best(past_scores(tmp_path, "auc")) == 6


def test_a_score_that_nobody_computes_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"'dice'.*got none among \['auc'\]"):
        run(tmp_path, name="dice")
