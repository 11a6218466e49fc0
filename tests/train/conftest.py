"""Stores that more than one test needs."""

import urllib.request

import boto3
import fsspec
import pytest
from moto.server import ThreadedMotoServer

from medjax.train import mirror


@pytest.fixture
def store(monkeypatch):
    """An empty store in memory; nothing waits."""
    monkeypatch.setattr(mirror, "PAUSE", 0.0)
    found = fsspec.filesystem("memory")
    found.store.clear()
    found.pseudo_dirs[:] = [""]
    yield found
    found.store.clear()
    found.pseudo_dirs[:] = [""]


@pytest.fixture
def fill(store, monkeypatch):
    """Makes the store take nothing more, when it is called."""

    def full(*_):
        raise RuntimeError("quota exceeded")

    return lambda: monkeypatch.setattr(type(store), "put", full)


@pytest.fixture
def s3(monkeypatch):
    """An address on a server that speaks S3, and how processes reach it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    told = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": host,
        "no_proxy": host,
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    # What servers of a process hold is one for all of them, the last test's too.
    reset = f"http://{host}:{port}/moto-api/reset"
    urllib.request.urlopen(urllib.request.Request(reset, method="POST")).close()
    client = boto3.client("s3")
    client.create_bucket(Bucket="films")
    yield client
    client.close()
    server.stop()
