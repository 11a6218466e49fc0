"""Films in the place of others, their memory, their filters, their distances."""

import numpy as np
import pytest

from medjax.data.ledger import Ledger
from medjax.data.pipeline import ArraySource, PipelineConfig, build_pipeline
from medjax.vlp.synthetic import curation, fidelity
from medjax.vlp.synthetic.films import DrawFilm, OtherFilms
from medjax.vlp.synthetic.memorisation import (
    near_duplicates,
    nearest,
    small_pixels,
    suspects,
    worst,
)

RNG = np.random.default_rng(0)


def source(n: int = 6) -> ArraySource:
    image = np.zeros((n, 2, 2), np.uint8)
    return ArraySource({"image": image, "number": np.arange(n, dtype=np.int32)})


def numbered(n: int, k: int) -> np.ndarray:
    """Films that say whose and which they are: 10 row + copy."""
    films = 10 * np.arange(n)[:, None] + np.arange(k)
    return np.broadcast_to(films[..., None, None], (n, k, 2, 2)).astype(np.uint8)


def test_films_are_those_of_their_rows_and_all_of_a_report_are_seen():
    rows, transform = OtherFilms(numbered(6, 3))(source(), None)
    config = PipelineConfig(batch_size=6, epochs=20)
    seen: dict[int, set[int]] = {}
    for batch in build_pipeline(rows, config, transform=transform):
        assert batch["image"].shape == (6, 2, 2)
        for number, film in zip(batch["number"], batch["image"], strict=True):
            assert film[0, 0] // 10 == number
            seen.setdefault(int(number), set()).add(int(film[0, 0] % 10))
    assert all(copies == {0, 1, 2} for copies in seen.values())


def test_arms_draw_the_same_sentences():
    """What is random in a row does not depend on how many films there are of it."""

    def sentence(row, rng):
        return {**row, "sentence": rng.integers(1000)}

    drawn = []
    for k in (1, 3):
        rows, transform = OtherFilms(numbered(6, k))(source(), sentence)
        config = PipelineConfig(batch_size=6, epochs=2, seed=3)
        stream = build_pipeline(rows, config, transform=transform)
        drawn.append([batch["sentence"].tolist() for batch in stream])
    assert drawn[0] == drawn[1]


def test_kept_rows_and_faults():
    kept = np.array([4, 1])
    rows, _ = OtherFilms(numbered(6, 1), kept)(source(), None)
    assert [rows[i]["number"] for i in range(len(rows))] == [4, 1]
    with pytest.raises(ValueError, match="films of 6 rows, got 5"):
        OtherFilms(numbered(5, 1))(source(), None)
    with pytest.raises(ValueError, match="rows"):
        OtherFilms(numbered(6, 1), np.array([6]))(source(), None)
    film = DrawFilm()({"image": numbered(1, 1)[0]}, np.random.default_rng(0))
    assert film["image"].shape == (2, 2)


def test_a_planted_copy_is_found_and_strangers_are_not():
    known = RNG.normal(size=(300, 8))
    held_out = RNG.normal(size=(200, 8))
    made = RNG.normal(size=(100, 8))
    made[7] = known[42] + 1e-3
    found = nearest(made, known)
    assert found.row[7] == 42 and worst(found, 1).tolist() == [7]
    assert (found.second >= found.distance).all()
    table = np.linalg.norm(made[:, None] - known[None], axis=2)
    np.testing.assert_allclose(found.distance, table.min(1))
    np.testing.assert_allclose(found.second, np.sort(table, axis=1)[:, 1])
    said = suspects(found, nearest(held_out, known))
    assert 0.01 <= said["share"] <= 0.05
    copies = nearest(known[:50] + 1e-3, known)
    assert suspects(copies, nearest(held_out, known))["share"] == 1.0
    assert suspects(copies, nearest(held_out, known))["ratio"]["made"] < 0.01


def test_copies_across_a_split_do_not_hide_copies():
    """Twins among the real ones put the limit at 0; an exact copy is one still."""
    known = RNG.normal(size=(50, 4))
    held_out = np.concatenate([known[:5], RNG.normal(size=(20, 4))])
    said = suspects(nearest(known[10:20], known), nearest(held_out, known))
    assert said["limit"] == 0 and said["share"] == 1.0
    assert said["held_out_copies"] == 5


def test_near_duplicates_across_a_split_are_counted_beside_chance():
    """Copies with grain are not at 0: the limit is what grain does to a film."""
    rng = np.random.default_rng(1)
    known, strangers = rng.normal(size=(200, 16)), rng.normal(size=(80, 16))

    def grain(films: np.ndarray) -> np.ndarray:
        return films + rng.normal(size=films.shape) * 0.05

    altered = np.linalg.norm(grain(known) - known, axis=1)
    among = nearest(known, known)
    clean = near_duplicates(nearest(strangers, known), among, altered)
    assert clean["found"] == clean["share"] == clean["floor"] == 0
    leaked = np.concatenate([strangers, grain(known[:20])])
    found = nearest(leaked, known)
    assert suspects(found, found)["held_out_copies"] == 0, "none of them is exact"
    said = near_duplicates(found, among, altered)
    assert 17 <= said["found"] <= 20 and said["share"] == said["found"] / 100
    assert said["floor"] == 0
    # People who look alike are no leak: the floor says so.
    alike = np.concatenate([known[:100], grain(known[:100])])
    said = near_duplicates(nearest(grain(alike), alike), nearest(alike, alike), altered)
    assert said["floor"] > 0.8


def test_a_reference_is_its_films_and_how_they_were_prepared():
    films = RNG.integers(0, 256, (3, 4, 4)).astype(np.uint8)
    said = fidelity.reference(films, {"settings": {"image_size": 4}, "seed": None})
    assert said["films"] == 3 and said["size"] == [4, 4]
    again = fidelity.reference(films + 0, {"seed": None, "settings": {"image_size": 4}})
    assert again == said
    other = fidelity.reference(films, {"settings": {"image_size": 5}, "seed": None})
    assert other["pixels_sha256"] == said["pixels_sha256"]
    assert other["preparation_sha256"] != said["preparation_sha256"]
    turned = fidelity.reference(films.reshape(3, 2, 8), {})
    assert turned["pixels_sha256"] != said["pixels_sha256"]


def test_small_pixels_do_not_see_exposure():
    films = RNG.integers(50, 100, (3, 64, 64)).astype(np.uint8)
    flat = small_pixels(films)
    assert flat.shape == (3, 32 * 32)
    np.testing.assert_allclose(flat, small_pixels(2 * films), atol=1e-4)


def candidates(features: np.ndarray, labels: np.ndarray) -> curation.Candidates:
    n = len(features)
    return curation.Candidates([""] * n, np.zeros((n, 2, 2)), features, labels)


def test_filters_keep_what_real_films_would_pass_and_say_why():
    labels = (RNG.random((400, 2)) < 0.4).astype(float)
    real = RNG.normal(size=(400, 6))
    real[:, :2] += 4 * labels
    keep = {
        "quality": curation.quality(real),
        "agreement": curation.agreement(
            real[:300], labels[:300], held_out=(real[300:], labels[300:])
        ),
        "distinct": curation.distinct(real),
    }
    others = (RNG.random((60, 2)) < 0.4).astype(float)
    films = RNG.normal(size=(60, 6))
    # A film and its twin that show plainly what both reports say.
    others[1:3] = [1.0, 0.0]
    films[:3] = 0.0
    films[:, :2] += 4 * others
    films[0] += 50.0
    films[1] = films[2] + 1e-6
    others[3] = 1 - others[3]
    others[4] = np.nan
    ledger = Ledger()
    kept, reasons = curation.curate(candidates(films, others), keep, ledger)
    assert reasons[0] == "quality" and reasons[3] == "agreement"
    assert reasons[2] == "distinct" and kept[1]
    assert reasons[4] in ("", "distinct"), "nothing is said that could be wrong"
    assert kept.sum() >= 48
    assert [(name, k + d) for name, k, d in ledger.filters][0] == ("quality", 60)
    counts = {name: dropped for name, _, dropped in ledger.filters}
    assert counts == {name: reasons.count(name) for name in keep}
    assert all(
        (reason == "") == bool(k) for reason, k in zip(reasons, kept, strict=True)
    )


def test_normals_are_thinned_to_their_share():
    labels = np.zeros((50, 2))
    labels[:20, 0] = 1.0
    kept = curation.balanced(0.5)(candidates(np.zeros((50, 2)), labels))
    assert kept[:20].all() and kept[20:].sum() == 10


def test_a_filter_that_does_not_answer_is_named():
    with pytest.raises(ValueError, match="'odd' gave"):
        films = candidates(np.zeros((3, 2)), np.zeros((3, 1)))
        curation.curate(films, {"odd": lambda films: np.ones(2, bool)}, Ledger())


def test_real_films_are_the_floor_of_distances_and_the_best_of_agreement():
    real = RNG.normal(size=(600, 5))
    found = fidelity.distances(
        real, {"shifted": RNG.normal(size=(600, 5)) + 0.5, "same": real + 0}
    )
    assert found["real"]["n"] == found["shifted"]["n"] == 300
    assert found["shifted"]["frechet"] > 5 * found["real"]["frechet"]
    # The deviation is of subsets that differ.
    assert found["shifted"]["kernel_sd"] > 0.01 * found["shifted"]["kernel"]
    labels = (RNG.random((600, 2)) < 0.5).astype(np.float32)
    shown = np.concatenate([labels, RNG.normal(size=(600, 1))], axis=1)
    shown += RNG.normal(size=shown.shape) * 0.3
    splits = {"train": slice(300), "valid": slice(300, 400)}
    known = {name: (shown[rows], labels[rows]) for name, rows in splits.items()}
    names = ["a", "b"]
    own = fidelity.report_agreement(known, shown[400:], labels[400:], names)
    others = fidelity.report_agreement(known, shown[400:][::-1], labels[400:], names)
    assert own > 0.95 and 0.35 < others < 0.65


@pytest.mark.parametrize("n", [30, 50, 300])
def test_the_floor_is_of_as_many_films_as_are_judged(n):
    """Few films of the very same distribution are no farther than real ones are."""
    rng = np.random.default_rng(n)
    real, same = rng.normal(size=(600, 32)), rng.normal(size=(n, 32))
    found = fidelity.distances(real, {"same": same, "more": rng.normal(size=(500, 32))})
    assert {row["n"] for row in found.values()} == {n}
    in_floors = fidelity.summary(found)
    assert 0.8 < in_floors["same"] < 1.25 and 0.8 < in_floors["more"] < 1.25


def test_equal_films_are_alike_and_others_are_not():
    one = RNG.integers(0, 256, (2, 1, 16, 16)).astype(np.uint8)
    np.testing.assert_allclose(fidelity.likeness(np.repeat(one, 3, 1)), 1.0, atol=1e-5)
    several = RNG.integers(0, 256, (2, 3, 16, 16)).astype(np.uint8)
    assert fidelity.likeness(several) < 0.2
