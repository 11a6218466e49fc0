"""Google's cloud takes a machine away: its server says so, and the run saves."""

import contextlib
import http.server
import signal
import threading
import time

import pytest

from medjax import train
from medjax.train import notice
from medjax.train.preemption import PreemptionGuard
from tests.train.tiny import Stream, init, quiet_loss

STAYS = {"preempted": "FALSE", "maintenance-event": "NONE"}


@pytest.fixture
def machine(monkeypatch):
    """A metadata server, which says what is put here, and what it was asked."""
    answers, asked = dict(STAYS), []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            *folder, key = self.path.split("/")
            assert "/".join(folder) == "/computeMetadata/v1/instance"
            asked.append((key, self.headers["Metadata-Flavor"]))
            answer = answers.get(key)
            self.send_response(200 if answer else 404)
            self.end_headers()
            self.wfile.write((answer or "").encode())

        def log_message(self, format, *args):
            pass

    found = http.server.ThreadingHTTPServer(("localhost", 0), Server)
    serves = threading.Thread(target=found.serve_forever, daemon=True)
    serves.start()
    monkeypatch.setenv("GCE_METADATA_HOST", f"localhost:{found.server_port}")
    monkeypatch.setattr(notice, "EVERY", 0.01)
    yield answers, asked
    found.shutdown()
    found.server_close()
    serves.join(60)


@contextlib.contextmanager
def heard():
    """What a notice says, while it asks."""
    event, said = threading.Event(), []

    def hear(what):
        said.append(what)
        event.set()

    with notice.Notice(hear):
        yield event, said


def until(asked, count):
    """Waits until the server was asked so often again."""
    seen = len(asked)
    end = time.monotonic() + 60
    while len(asked) < seen + count:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    "key, stays, goes",
    [
        ("preempted", "FALSE", "TRUE"),
        ("maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE", None),
        ("maintenance-event", None, "TERMINATE_ON_HOST_MAINTENANCE"),
    ],
)
def test_what_ends_the_machine_is_heard_and_what_moves_it_is_not(
    machine, key, stays, goes
):
    answers, asked = machine
    answers[key] = stays
    with heard() as (event, said):
        until(asked, 6)
        assert not said, "it goes on asking, of what the server does not know as well"
        answers[key] = goes
        if goes:
            assert event.wait(60)
    assert said == ([f"{key}: {goes}"] if goes else [])
    assert set(asked) == {(key, "Google") for key in STAYS}
    assert not [t for t in threading.enumerate() if t.name == "notice" and goes]


def test_nobody_is_asked_elsewhere(monkeypatch, tmp_path):
    for name in ("GCE_METADATA_HOST", "GCE_METADATA_IP"):
        monkeypatch.delenv(name, raising=False)
    product = tmp_path / "product_name"
    monkeypatch.setattr(notice, "PRODUCT", product)
    assert notice.server() is None
    product.write_text("Virtual Machine\n")
    assert notice.server() is None
    with heard():
        assert all(thread.name != "notice" for thread in threading.enumerate())
    product.write_text("Google Compute Engine\n")
    assert notice.server() == "metadata.google.internal"


def test_a_server_that_is_silent_is_asked_again(monkeypatch, machine):
    answers, _ = machine
    answers["preempted"] = "TRUE"
    real, failed = notice.Notice._answer, []

    def answer(self, address, key):
        if len(failed) < 3:
            failed.append(key)
            address = "localhost:1"
        return real(self, address, key)

    monkeypatch.setattr(notice.Notice, "_answer", answer)
    with heard() as (event, said):
        assert event.wait(60)
    assert said == ["preempted: TRUE"] and len(failed) == 3


def test_its_word_counts_as_the_signal(machine, tmp_path, caplog):
    """The run saves and leaves with 143; the same command goes on."""
    answers, _ = machine

    def fit(*evals):
        return train.fit(
            init,
            quiet_loss,
            Stream(),
            workdir=tmp_path,
            train=train.TrainConfig(steps=200, eval_every=3, log_every=200),
            evals=evals,
        )

    def taken(state, step):
        """From the third step on."""
        answers["preempted"] = "TRUE"
        noted = [t for t in threading.enumerate() if t.name == "notice"]
        for thread in noted:
            thread.join(60)
        return {}

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(train.Preempted) as stopped:
        fit(taken)
    assert stopped.value.step == 4 and stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert "this machine ends (preempted: TRUE)" in caplog.text
    assert (tmp_path / "checkpoints" / "4" / "variables").is_dir()
    answers |= STAYS
    assert int(fit().step) == 200


def test_a_signal_that_follows_is_noted_too(machine, monkeypatch):
    answers, _ = machine
    sent = []
    monkeypatch.setattr("os.kill", lambda pid, number: sent.append(number))
    answers["preempted"] = "TRUE"
    with PreemptionGuard() as guard:
        end = time.monotonic() + 60
        while guard.requested(1) is None:
            assert time.monotonic() < end
            time.sleep(0.01)
        signal.raise_signal(signal.SIGTERM)
        assert guard.requested(2) == signal.SIGTERM
    assert sent == [signal.SIGTERM]
