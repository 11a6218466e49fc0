"""The embedded world: reports that read back, films that show what they say."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medjax.vlp.rendering import (
    FINDINGS,
    DrawnGenerator,
    Finding,
    FindingGraph,
    draw_graph,
    embedded_studies,
    generator,
    parse,
    write,
)

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=200, deadline=None)
@given(seed=SEEDS, sections=st.sampled_from(("both", "findings", "impression")))
def test_what_the_grammar_writes_the_parser_reads(seed, sections):
    rng = np.random.default_rng(seed)
    graph = draw_graph(rng)
    findings, impression = write(graph, rng, sections=sections)
    assert parse(f"FINDINGS: {findings}\n\nIMPRESSION: {impression}") == graph


REAL = {
    "No large pleural effusion or pneumothorax.": (
        {},
        {"Pleural Effusion", "Pneumothorax"},
    ),
    "Small left effusion with adjacent right basilar atelectasis.": (
        {
            "Pleural Effusion": Finding(side="left", severity="mild"),
            "Atelectasis": Finding(side="right", zone="lower"),
        },
        set(),
    ),
    "Cardiomegaly without overt edema.": ({"Cardiomegaly": Finding()}, {"Edema"}),
    "Edema has resolved. The heart is markedly enlarged.": (
        {"Cardiomegaly": Finding(severity="severe")},
        {"Edema"},
    ),
    "No significant change in right effusion.": (
        {"Pleural Effusion": Finding(side="right")},
        set(),
    ),
    "No edema, but there is a tiny right apical pneumothorax.": (
        {"Pneumothorax": Finding(side="right", severity="mild")},
        {"Edema"},
    ),
    "1. Left pleural effusion. Right effusion is also present.\n\n2. Effusion.": (
        {"Pleural Effusion": Finding(side="both")},
        set(),
    ),
    "INDICATION: history of pneumothorax\nFINDINGS: Right PICC in place.": (
        {"Support Devices": Finding(side="right", kind="central venous catheter")},
        set(),
    ),
    "A nodular opacity in the left upper lobe.": (
        {"Nodule": Finding(side="left", zone="upper")},
        set(),
    ),
    "No acute cardiopulmonary process.": ({}, set()),
    "": ({}, set()),
}


@pytest.mark.parametrize("report", REAL)
def test_parser_reads_dictated_sentences(report):
    present, absent = REAL[report]
    assert parse(report) == FindingGraph(present, frozenset(absent))


def test_parser_agrees_with_the_indexing_of_real_reports(shared_data):
    terms = {
        "Cardiomegaly": "cardiomegaly",
        "Pleural Effusion": "pleural effusion",
        "Atelectasis": "pulmonary atelectasis",
        "Pneumothorax": "pneumothorax",
    }
    with (shared_data / "cxr/openi/indiana_reports.csv").open() as file:
        rows = list(csv.DictReader(file))
    read = [parse(f"{row['findings']}\n\n{row['impression']}").present for row in rows]
    for name, term in terms.items():
        truth = np.array([term in row["MeSH"].lower() for row in rows])
        found = np.array([name in present for present in read])
        assert (truth & found).sum() / truth.sum() > 0.8, name
        assert (truth & found).sum() / found.sum() > 0.7, name


def test_sections_can_be_missing_and_unknown_ones_are_refused():
    rng = np.random.default_rng(0)
    graph = FindingGraph({"Edema": Finding()})
    assert write(graph, rng, sections="findings")[1] == ""
    assert write(graph, rng, sections="impression")[0] == ""
    with pytest.raises(ValueError, match="sections"):
        write(graph, rng, sections="history")


def test_graphs_refuse_contradictions_and_strangers():
    with pytest.raises(ValueError, match="both present and absent"):
        FindingGraph({"Edema": Finding()}, frozenset({"Edema"}))
    with pytest.raises(ValueError, match="unknown findings"):
        FindingGraph({"Goitre": Finding()})


def difference(report: str, against: str = "Clear lungs.", size: int = 64):
    """Mean of many films of a report minus that of films of another."""
    draw = DrawnGenerator(size)
    n = 80
    means = [draw([text] * n, seed=3).mean(0) for text in (report, against)]
    return means[0] - means[1]


def test_laterality_is_the_patients():
    change = difference("Large left pleural effusion.")
    lower = change[32:52]
    assert lower[:, 36:58].mean() > 15, "the patient's left is the viewer's right"
    assert abs(lower[:, 6:28].mean()) < 6
    mirrored = difference("Large right pleural effusion.")[32:52]
    assert mirrored[:, 6:28].mean() > 15


def test_severity_zone_and_negation_show():
    mild = difference("Small right consolidation in the right upper zone.")
    severe = difference("Severe consolidation in the right upper zone.")
    assert severe[8:28, 8:28].mean() > mild[8:28, 8:28].mean() + 2
    assert severe[8:28, 8:28].mean() > severe[36:52, 8:28].mean() + 5
    assert difference("Severe emphysema.")[10:44, 12:24].mean() < -2
    assert np.abs(difference("No pneumothorax or effusion.")).max() < 1e-6


@pytest.mark.parametrize("name", FINDINGS)
def test_every_finding_changes_the_film(name):
    words = {"Support Devices": "pacemaker", "Nodule": "large right upper lobe nodule"}
    report = f"There is {words.get(name, 'severe ' + name.lower())}."
    assert list(parse(report).present) == [name]
    assert np.abs(difference(report)).max() > 4


def test_films_depend_on_report_seed_and_position_only():
    draw = generator("drawn", size=64)
    reports = ["Cardiomegaly.", "Left effusion.", "Cardiomegaly."]
    films = draw(reports, seed=1)
    assert films.shape == (3, 64, 64) and films.dtype == np.uint8
    np.testing.assert_array_equal(films, draw(reports, seed=1))
    np.testing.assert_array_equal(films[:2], draw(reports[:2], seed=1))
    assert (films != draw(reports, seed=2)).any()
    assert (films[0] != films[2]).any(), "films of one report differ"


def test_a_film_is_the_same_chest_at_every_size():
    small, large = (
        DrawnGenerator(s)(["Severe cardiomegaly."], seed=5)[0].astype(float)
        for s in (64, 512)
    )
    pooled = large.reshape(16, 32, 16, 32).mean((1, 3))
    assert (
        np.corrcoef(pooled.ravel(), small.reshape(16, 4, 16, 4).mean((1, 3)).ravel())[
            0, 1
        ]
        > 0.98
    )


def test_generators_are_found_by_name():
    with pytest.raises(ValueError, match="drawn"):
        generator("diffusion", size=64)
    with pytest.raises(ValueError, match="size"):
        generator("drawn", size=4)
    for name in ("run:", "photograph", "draw:here"):
        with pytest.raises(ValueError, match="expected drawn, run:PATH"):
            generator(name, size=64)
    with pytest.raises(FileNotFoundError, match="run experiments.generator"):
        generator("run:nowhere", size=64)
    with pytest.raises(FileNotFoundError, match="no file, no folder"):
        generator("diffusion:/nowhere/at/all", size=64)


def test_embedded_studies_split_by_patient_with_true_labels():
    studies = embedded_studies(400, seed=0)
    patients = {
        s: {x.patient for x in studies if x.split == s} for s in ("train", "test")
    }
    assert not patients["train"] & patients["test"]
    assert len(patients["train"]) == 280 and len(patients["test"]) == 80
    assert len({s.id for s in studies}) == len(studies) > 450
    for study in studies:
        assert set(study.graph.present) == {k for k, v in study.labels.items() if v}
        assert parse(study.report) == study.graph
    empty = [(not s.findings, not s.impression) for s in studies]
    assert 0.05 < np.mean([e[0] for e in empty]) < 0.15
    assert not any(all(e) for e in empty)
    prevalence = np.mean([list(s.labels.values()) for s in studies], axis=0)
    assert (prevalence > 0.04).all() and (prevalence < 0.35).all()
    assert studies[0].report == embedded_studies(500, seed=0)[0].report
    with pytest.raises(ValueError, match="n_patients"):
        embedded_studies(2, seed=0)
