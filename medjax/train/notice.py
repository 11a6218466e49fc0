"""Word from Google's cloud that this machine will be taken away, before it is.

A machine there can ask a server of its own: `preempted` of a spot machine says TRUE
some 30 seconds before it goes, and `maintenance-event` that it will be ended, a minute
before that, to whoever asks at least once an hour. A signal follows late, or reaches
only what runs in the foreground. So a thread asks; elsewhere there is none.
"""

import logging
import os
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

EVERY = 5.0
"""Seconds between two questions."""
PATIENCE = 2.0
"""Seconds in which the server has to answer; it is on the same machine."""
ENDING = {
    "preempted": ("TRUE",),
    "maintenance-event": ("TERMINATE_ON_HOST_MAINTENANCE",),
}
"""Answers after which the machine is gone. One that is moved while it runs stays."""
PRODUCT = Path("/sys/class/dmi/id/product_name")
"""What the machine says it is."""


def server() -> str | None:
    """Address of the metadata server, None where there is none."""
    told = os.environ.get("GCE_METADATA_HOST") or os.environ.get("GCE_METADATA_IP")
    if told:
        return told
    try:
        google = PRODUCT.read_text().startswith("Google")
    except OSError:
        return None
    return "metadata.google.internal" if google else None


class Notice:
    """Asks in the background while it is entered.

    Args:
      heard: Called once, from a thread, with what the server said.
    """

    def __init__(self, heard: Callable[[str], None]) -> None:
        self._heard, self._over = heard, threading.Event()

    def __enter__(self) -> "Notice":
        if (address := server()) is not None:
            work = threading.Thread(
                target=self._ask, args=(address,), name="notice", daemon=True
            )
            work.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()

    def _ask(self, address: str) -> None:
        while not self._over.is_set():
            for key, endings in ENDING.items():
                if (answer := self._answer(address, key)) in endings:
                    if not self._over.is_set():
                        self._heard(f"{key}: {answer}")
                    return
            self._over.wait(EVERY)

    def _answer(self, address: str, key: str) -> str | None:
        """What the server says; None where it says nothing this time."""
        asked = urllib.request.Request(
            f"http://{address}/computeMetadata/v1/instance/{key}",
            headers={"Metadata-Flavor": "Google"},
        )
        # No proxy stands between a machine and its own server.
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(asked, timeout=PATIENCE) as reply:
                return reply.read().decode().strip()
        except (OSError, ValueError) as error:
            logger.debug("metadata server, %s: %s", key, error)
            return None
