"""The account of a run's time: by hand, across starts, and of a run itself."""

import json

import pytest

from medjax import train
from medjax.report.page import Report
from medjax.report.run import training_section
from medjax.train.goodput import LOST, NAME, Goodput
from tests.train.tiny import Stream, init, loss


class Clock:
    """A clock that stands still until it is told to go."""

    def __init__(self, at=0.0):
        self.at = at

    def __call__(self):
        return self.at

    def go(self, seconds):
        self.at += seconds


def test_every_second_is_charged_once_and_across_starts(tmp_path):
    clock = Clock(100.0)
    account = Goodput(tmp_path, step=0, began=90.0, clock=clock)
    with account.spent("compile"):
        clock.go(5)
    account.begin_steps()
    for name, seconds in {"input": 1, "save": 2, "evaluate": 3}.items():
        clock.go(8)
        with account.spent(name):
            clock.go(seconds)
    row = account.read(20)
    lost = {name: row[f"lost/{name}"] for name in LOST}
    assert lost == {
        "down": 0,
        "start": 10,
        "compile": 5,
        "restore": 0,
        "input": 1,
        "save": 2,
        "evaluate": 3,
        "repeated": 0,
    }
    assert row["goodput"] == pytest.approx(24 / 45)

    # It died 7 seconds later, and goes on from step 15: a quarter was in vain.
    clock = Clock(150.0)
    account = Goodput(tmp_path, step=15, began=142.0, clock=clock)
    with account.spent("restore"):
        clock.go(4)
    account.begin_steps()
    clock.go(36)
    row = account.read(50)
    assert account.starts == 2
    assert row["lost/down"] == 7 and row["lost/restore"] == 4
    assert row["lost/start"] == 10 + 8
    assert row["lost/repeated"] == 6
    assert row["goodput"] == pytest.approx((18 + 36) / (45 + 7 + 8 + 4 + 36))


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"step": "a"}', '{"step": 1}'])
def test_an_account_that_cannot_be_read_begins_anew(damage, tmp_path):
    (tmp_path / NAME).write_text(damage)
    assert Goodput(tmp_path, step=3).starts == 1


def test_a_run_and_its_page_say_where_the_time_went(tmp_path):
    def go(steps):
        options = train.TrainConfig(steps=steps, log_every=2, checkpoint_every=2)
        train.fit(init, loss, Stream(), workdir=tmp_path, train=options)

    go(2)
    go(4)
    rows = train.read_metrics(tmp_path)
    assert all(0 < row["goodput"] < 1 for row in rows)
    assert rows[-1]["lost/compile"] > 0 and rows[-1]["lost/restore"] > 0
    assert rows[-1]["lost/down"] > 0, "between the two"
    kept = json.loads((tmp_path / NAME).read_text())
    assert (kept["starts"], kept["step"]) == (2, 4)
    page = Report("a run")
    training_section(page, rows)
    assert "Goodput" in page.html()
