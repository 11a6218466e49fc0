"""The embedded data as a data set like any other: nothing to download, labels known."""

from dataclasses import dataclass

from medjax.data.ledger import Ledger
from medjax.vlp.datasets.study import Study
from medjax.vlp.rendering.studies import embedded_studies


@dataclass(frozen=True)
class Embedded:
    """Invented patients; their images are drawn from their reports (``render``)."""

    patients: int = 3000
    """How many; about 1.5 studies each."""
    seed: int = 0
    """Other seeds invent other people."""

    name = "embedded"
    has_text = True

    def read(self, ledger: Ledger) -> list[Study]:
        """All studies; there is nothing to be at fault."""
        studies = [
            Study(
                id=s.id,
                patient=s.patient,
                findings=s.findings,
                impression=s.impression,
                labels=s.labels,
                split=s.split,
            )
            for s in embedded_studies(self.patients, self.seed)
        ]
        ledger.count("embedded studies", len(studies))
        return studies
