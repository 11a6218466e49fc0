"""Synthetic films of a comparison: made, kept, judged and shown.

What `experiments.synthetic_pretraining` asks of the films themselves, before anything
is trained on them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.compare.publishing import finished, keep
from medjax.data import npy
from medjax.data.ledger import Ledger
from medjax.data.whole import whole
from medjax.report import Card, Report
from medjax.train.agree import on_first
from medjax.vlp.corpus import Corpus
from medjax.vlp.diffusion.generator import DiffusionGenerator
from medjax.vlp.rendering import Generator
from medjax.vlp.rendering import generator as find_generator
from medjax.vlp.synthetic import curation, fidelity, memorisation

PROMPTS, PER_PROMPT = 16, 4
"""Reports whose films are compared with each other, and films of each."""
PLANTED = 40
"""Training films that are put among the made ones, darker and with grain of their own,
to see whether the search for copies finds them."""
Features = Callable[[np.ndarray], np.ndarray]
"""Films to vectors of a model that was trained on real ones."""


class Made:
    """Synthetic films of both splits, each made once and kept.

    Attributes:
      described: what made them.
    """

    def __init__(
        self,
        corpus: Corpus,
        draw: Generator,
        *,
        seed: int,
        folder: Path,
    ) -> None:
        """Asks the generator what it is.

        Args:
          corpus: the reports.
          draw: the generator, of films of the corpus's size.
          seed: of the first film of each report.
          folder: where films are kept.
        """
        self.corpus, self.seed, self.folder = corpus, seed, folder
        self.draw, self.described = draw, dict(draw.described())

    def untrained(self) -> "Made | None":
        """Films by the same networks before any training; None of drawn ones."""
        if not isinstance(self.draw, DiffusionGenerator):
            return None
        bare, folder = self.draw.untrained(), self.folder / "untrained"
        return Made(self.corpus, bare, seed=self.seed, folder=folder)

    def generator(self, copy: int) -> dict[str, Any]:
        """What made one of several films of each report, for records of runs."""
        return {**self.described, "seed": self.seed + copy}

    def films(self, split: str, copy: int, most: int | None = None) -> np.ndarray:
        """Films of the reports of a split, of one seed.

        Args:
          split: ``train`` or ``test``.
          copy: which of several films of each report.
          most: of the first reports; None: of all.
        """
        sections = ("findings", "impression")
        columns = [self.corpus.column(split, f"{name}_text") for name in sections]
        texts = [
            f"FINDINGS: {findings}\n\nIMPRESSION: {impression}"
            for findings, impression in zip(*columns, strict=True)
        ][:most]
        name = f"{split}-{copy}" + (f"-first-{most}" if most else "")
        return self.of(texts, name, self.seed + copy)

    def of(self, texts: list[str], name: str, seed: int) -> np.ndarray:
        """Films of texts, by the name that they are kept under.

        Raises:
          ValueError: films of that name were made otherwise.
        """
        folder = self.folder
        asked = {**self.described, "seed": seed, "texts": len(texts)}
        known = finished(folder / name, [asked], "(how films are made)")
        path = folder / f"{name}.npy"
        if known is None:
            films = self.draw(texts, seed=seed)

            def write() -> None:
                with whole(path) as draft:
                    np.save(draft, films)

            on_first(write, what=f"films {name}")
            keep(folder / name / "result.json", {"budget": [asked]})
        return npy.read(path)


def real_films(corpus: Corpus, split: str, most: int | None = None) -> np.ndarray:
    """The films of a split."""
    source = corpus.source(split, ("image",))
    return np.stack([source[i]["image"] for i in range(len(source))][:most])


def judge(
    corpus: Corpus, made: Made, features: Features, *, held_out: int, pictures: Path
) -> dict[str, Any]:
    """Fidelity, memorisation and curation of the films, by a witness of real films.

    Films of the same networks before any training are judged beside them, where what
    makes them has any.

    Args:
      corpus: the real films.
      made: the synthetic ones.
      features: of the witness, which takes no part in the comparison.
      held_out: reports of the test split that films are made of.
      pictures: the page of films.

    Returns:
      The numbers; and ``kept``, the training rows whose films curation keeps.
    """
    real = {
        split: features(real_films(corpus, split))
        for split in ("train", "valid", "test")
    }
    labels = {split: corpus.labels(split) for split in real}
    test, train = made.films("test", 0, held_out), made.films("train", 0)
    synthetic = {"test": features(test), "train": features(train)}
    noise = np.random.default_rng(0).integers(0, 256, test.shape).astype(np.uint8)
    bare = made.untrained()
    untrained = (
        {} if bare is None else {"untrained": features(bare.films("test", 0, held_out))}
    )
    found = fidelity.distances(
        real["test"],
        {"synthetic": synthetic["test"], **untrained, "noise": features(noise)},
    )
    known = {split: (real[split], labels[split]) for split in ("train", "valid")}
    told = labels["test"][: len(test)]
    order = np.roll(np.arange(len(test)), len(test) // 2)
    agree = {
        "real": (real["test"][: len(test)], told),
        "synthetic": (synthetic["test"], told),
        "shuffled": (synthetic["test"][order], told),
        **{name: (films, told) for name, films in untrained.items()},
    }
    ledger = Ledger()
    films = curation.Candidates(
        corpus.column("train", "report_text"),
        train,
        synthetic["train"],
        labels["train"],
    )
    normal = (np.nansum(labels["train"], 1) == 0).mean()
    filters = {
        "quality": curation.quality(real["train"]),
        "agreement": curation.agreement(
            real["train"], labels["train"], held_out=(real["valid"], labels["valid"])
        ),
        "distinct": curation.distinct(real["train"]),
        "balance": curation.balanced(float(normal / (1 - normal))),
    }
    kept, _ = curation.curate(films, filters, ledger)
    first = [made.films("test", copy, PROMPTS) for copy in range(PER_PROMPT)]
    drawn = find_generator("drawn", size=corpus.metadata["image_size"])
    texts = corpus.column("test", "report_text")[:PROMPTS]
    again = [drawn(texts, seed=seed) for seed in range(PER_PROMPT)]
    how = ("settings", "source_hash", "image_size", "generator")
    judged = {
        "reference": fidelity.reference(
            real_films(corpus, "test"), {name: corpus.metadata[name] for name in how}
        ),
        "distances": found,
        "agreement": {
            name: fidelity.report_agreement(known, *pair, corpus.findings)
            for name, pair in agree.items()
        },
        "likeness": {
            "synthetic": fidelity.likeness(np.stack(first, 1)),
            "real": fidelity.likeness(np.stack(again, 1)),
        },
        "memorisation": remembered(corpus, real, synthetic, train, test, features),
        "curation": [list(line) for line in ledger.filters],
        "kept": np.flatnonzero(kept),
    }
    on_first(lambda: page(pictures, corpus, judged, test, train), what="page of films")
    return judged


def remembered(
    corpus: Corpus,
    real: Mapping[str, np.ndarray],
    synthetic: Mapping[str, np.ndarray],
    train: np.ndarray,
    test: np.ndarray,
    features: Features,
) -> dict[str, Any]:
    """Whether films are copies, by features and pixels; and that one would be seen.

    And whether the border of the split lets films through, which made ones would be
    excused by.
    """
    pixels = memorisation.small_pixels(real_films(corpus, "train"))
    held_out = memorisation.small_pixels(real_films(corpus, "test"))
    known = {"features": (real["train"], real["test"]), "pixels": (pixels, held_out)}
    made = {
        "features": np.concatenate([synthetic["train"], synthetic["test"]]),
        "pixels": memorisation.small_pixels(np.concatenate([train, test])),
    }
    rng = np.random.default_rng(0)
    films = real_films(corpus, "train")
    whose = rng.permutation(len(films))[:PLANTED]
    films = films[whose]
    altered = np.clip(0.9 * films + rng.normal(0, 4, films.shape), 0, 255)
    altered = altered.round().astype(np.uint8)
    planted = {
        "features": features(altered),
        "pixels": memorisation.small_pixels(altered),
    }
    patients = np.asarray(corpus.column("train", "patient"))
    people = np.unique(patients, return_index=True)[1]
    found: dict[str, Any] = {}
    for name, (trained, others) in known.items():
        floor = memorisation.nearest(others, trained)
        found[name] = memorisation.suspects(
            memorisation.nearest(made[name], trained), floor
        )
        copies = memorisation.nearest(planted[name], trained)
        share = memorisation.suspects(copies, floor)["share"]
        found[name]["planted copies found"] = share
        found[name]["across the split"] = memorisation.near_duplicates(
            floor,
            memorisation.nearest(trained[people], trained[people]),
            np.linalg.norm(planted[name] - trained[whose], axis=1),
        )
    return found


def page(
    path: Path,
    corpus: Corpus,
    judged: Mapping[str, Any],
    test: np.ndarray,
    train: np.ndarray,
) -> None:
    """Writes the page of films: pairs of real and made ones, and the suspects."""
    real, known = real_films(corpus, "test", len(test)), real_films(corpus, "train")
    texts = corpus.column("test", "report_text")
    report = Report("Synthetic films", "made of reports, beside real ones")
    report.numbers(
        {
            "agreement with reports": (
                judged["agreement"]["synthetic"],
                f"real films {judged['agreement']['real']:.3f}",
            )
        }
    )
    report.section("Real and made, of one report")
    report.gallery(
        [
            Card(np.concatenate([real[i], test[i]], axis=1), "", [(texts[i], None)])
            for i in range(min(12, len(test)))
        ]
    )
    report.section("The training films that made ones are nearest to")
    report.text("Left the made film, right the real one of the training split.")
    small = memorisation.small_pixels(known)
    pairs(report, train, known, small)
    report.section("The training films that held-out ones are nearest to")
    across = judged["memorisation"]["pixels"]["across the split"]
    report.text(
        f"As near as a copy: {across['found']} held-out films ({across['share']:.1%}); "
        f"of training films of different people {across['floor']:.1%} are as near to "
        "another one."
    )
    pairs(report, real_films(corpus, "test"), known, small)
    report.save(path)


def pairs(
    report: Report, films: np.ndarray, known: np.ndarray, small: np.ndarray
) -> None:
    """Shows films beside the training film that they are nearest to, by pixels.

    Args:
      report: the page.
      films: the nearest of them are shown.
      known: of the training split.
      small: small pixels of those.
    """
    found = memorisation.nearest(memorisation.small_pixels(films), small)
    report.gallery(
        [
            Card(
                np.concatenate([films[i], known[found.row[i]]], axis=1),
                f"distance {found.distance[i]:.1f}",
            )
            for i in memorisation.worst(found)
        ]
    )
