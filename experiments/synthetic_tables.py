"""What `experiments.synthetic_pretraining` found, in Markdown and in a paragraph."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.bench.tables import markdown
from experiments.compare.publishing import cell, interval
from medjax.vlp.synthetic import fidelity

SYSTEMS: Mapping[str, str] = {
    "convirt": "ConVIRT",
    "gloria": "GLoRIA",
    "mgca": "MGCA",
    "imitate": "IMITATE",
    "mflag": "M-FLAG",
}
ARMS: Mapping[str, str] = {
    "real": "real films",
    "synthetic": "one synthetic film per report",
    "several": "several per report",
    "mixed": "real and synthetic",
    "shuffled": "synthetic, of others' reports",
    "null": "films of noise",
    "curated": "synthetic, curated",
    "random": "random initialisation",
}
PLACED: Mapping[str, str] = {"Dice of all pixels": "Masks", "mAP": "Boxes"}
"""Columns of places that the answer tells of."""


def answer(results: Mapping[str, Any]) -> str:
    """Whether synthetic films are on par with real ones here, in a paragraph."""
    told = []
    score = "probe 100 %"
    by = {entry["system"]: entry for entry in results["summary"]}
    away = {entry["system"]: entry for entry in results["differences"]}
    for system in dict.fromkeys(name.split("/")[0] for name in by):
        arms = {a: by[f"{system}/{a}"] for a in ARMS if f"{system}/{a}" in by}
        if not {"real", "synthetic", "random"} <= arms.keys():
            continue
        if score not in arms["real"]:
            continue
        real, synthetic, random = (
            arms[arm][score]["mean"] for arm in ("real", "synthetic", "random")
        )
        worth = "real films add nothing, so there is no share of it to tell"
        if real > random:
            share = (synthetic - random) / (real - random)
            worth = f"synthetic films give {share:.0%} of what real ones add"
        told.append(
            f"{SYSTEMS[system]} probed with all labels reaches a macro AUC of "
            f"{real:.3f} after real films, {synthetic:.3f} after synthetic ones "
            f"({synthetic / real:.1%} of it) and {random:.3f} untrained: {worth}."
        )
        if apart := away.get(f"{system}/synthetic"):
            told[-1] += (
                f" Synthetic minus real, seed by seed: {interval(apart[score])}."
            )
        if "shuffled" in arms:
            told[-1] += (
                f" Of others' reports they give {arms['shuffled'][score]['mean']:.3f}."
            )
        if "mixed" in arms:
            told[-1] += (
                f" Real and synthetic together: {arms['mixed'][score]['mean']:.3f}."
            )
        told[-1] += "".join(
            f" {about} are found to {found['real']:.3f}, {found['synthetic']:.3f} and "
            f"{found['random']:.3f} ({name})."
            for name, about in PLACED.items()
            if name in arms["real"]
            for found in [{arm: arms[arm][name]["mean"] for arm in arms}]
        )
    seeds = max(entry["seeds"] for entry in results["summary"])
    agreement = results["films"]["agreement"]
    told.append(
        "The generator's films agree with their reports to "
        f"{agreement['synthetic']:.3f} (real films {agreement['real']:.3f}, others' "
        f"reports {agreement['shuffled']:.3f}), so this is an answer about a generator "
        f"of that quality, from {seeds} seed{'s' if seeds > 1 else ''}, on drawn "
        "films. The "
        "paper says that synthetic films are on par with real ones, of a generator "
        "that knew far more radiographs, on MIMIC-CXR: that is not settled here."
    )
    return " ".join(told)


def table(results: Mapping[str, Any]) -> str:
    """Transfer, fidelity and memorisation in Markdown, and the answer."""
    films, summary = results["films"], results["summary"]
    names = [name for name in summary[0] if name not in ("system", "seeds")]

    def rows(entries: Sequence[Mapping[str, Any]], tell: Callable[[Any], str]) -> list:
        found = []
        for entry in entries:
            system, arm = entry["system"].split("/")
            cells = [tell(entry[name]) for name in names]
            found.append([SYSTEMS[system], ARMS[arm], *cells])
        return found

    away = rows(results["differences"], interval)
    minus = [markdown(["system", "minus real films", *names], away)] if away else []
    distances = films["distances"]
    floors = fidelity.summary(distances)
    near = [
        [
            name,
            f"{row['frechet']:.2f}",
            f"{floors[name]:.1f}",
            f"{row['kernel']:.4f} ± {row['kernel_sd']:.4f}",
            str(row["n"]),
        ]
        for name, row in distances.items()
    ]
    asked = [[name, f"{value:.3f}"] for name, value in films["agreement"].items()]
    copies = [
        [
            name,
            f"{row['share']:.1%}",
            f"{row['expected']:.1%}",
            f"{row['ratio']['made']:.3f} / {row['ratio']['held out']:.3f}",
            f"{row['planted copies found']:.0%}",
        ]
        for name, row in films["memorisation"].items()
    ]
    across = [
        [name, str(there["found"]), f"{there['share']:.1%}", f"{there['floor']:.1%}"]
        for name, row in films["memorisation"].items()
        if (there := row.get("across the split"))
    ]
    border = ["held-out films as near to a training film as a copy, by", "films"]
    border += ["share", "of different people by chance"]
    like = films["likeness"]
    return "\n\n".join(
        [
            markdown(["system", "trained on", *names], rows(summary, cell)),
            *minus,
            markdown(
                ["films", "Fréchet distance", "in floors", "kernel distance", "n"], near
            ),
            *_reference(films),
            markdown(["films and reports", "agreement (macro AUC)"], asked),
            markdown(
                [
                    "nearest training film by",
                    "suspects",
                    "expected of real films",
                    "first / second distance, made / held out",
                    "planted copies found",
                ],
                copies,
            ),
            *([markdown(border, across)] if across else []),
            markdown(
                ["filter", "kept", "left out"],
                [[str(part) for part in line] for line in films["curation"]],
            ),
            f"Likeness of films of one report (structural similarity): synthetic "
            f"{like['synthetic']:.3f}, real {like['real']:.3f}.",
            results["answer"],
        ]
    )


def _reference(films: Mapping[str, Any]) -> list[str]:
    """What distances are to, in a line, if the results say it."""
    if not (known := films.get("reference")):
        return []
    h, w = known["size"]
    pixels, made = (known[f"{name}_sha256"][:12] for name in ("pixels", "preparation"))
    return [
        f"Distances are to {known['films']} held-out films of {h} by {w} pixels "
        f"(SHA-256 of the pixels {pixels}, of their preparation {made})."
    ]
