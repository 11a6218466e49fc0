"""A generator of anatomy from data to scores: train, complete, generate, report."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, Integer

from medjax.heart.anatomy_scores import (
    adherence,
    age_slopes,
    closing_gap,
    completion_scores,
    features,
    memorisation,
    sample_scores,
    spreads,
)
from medjax.heart.cheart import cheart_system
from medjax.heart.cheart_network import CHeartConfig
from medjax.heart.clinical import FEATURES
from medjax.heart.completion import (
    Nearest,
    ShapeSpace,
    Standard,
    draw_features,
    nearest_people,
    repeat,
)
from medjax.heart.data import (
    Anatomies,
    AnatomyConfig,
    open_anatomies,
    training_batches,
)
from medjax.heart.generation_report import show
from medjax.heart.population import CONDITIONS, EJECTION_DEVIATION
from medjax.heart.systems import Generator, Trained
from medjax.heart.validation import ValidationConfig, watched
from medjax.metrics.cases import Cases
from medjax.metrics.distributions import beside_controls
from medjax.train.agree import on_first
from medjax.train.experiment import Experiment
from medjax.train.launch import LaunchConfig, cpu_devices
from medjax.train.mesh import make_mesh
from medjax.typing import Variables

NAME = "CHeart"
COMPLETE = """
To complete cycles or generate hearts, in Python:

    import jax, medjax
    run = medjax.load({path})
    cycle = run.complete(first, conditions)              # n t d h w labels
    hearts = run.generate(conditions, key=jax.random.key(0))
"""


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """What is scored at the end."""

    draws: int = 4
    """Generated hearts per held-out person."""
    samples: int = 20
    """Generated hearts per held-out person that are held against their own."""
    sweep: int = 16
    """Draws per age and sex in the age sweep."""
    show_row: int = 0
    """The held-out person that the report shows."""
    seed: int = 0
    """Of the draws."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation(Experiment):
    """One training run; every field is a flag."""

    uses: ClassVar[dict[str, str]] = {"generate": COMPLETE}

    system: CHeartConfig = CHeartConfig()
    """Network and loss; shape and frames are those of the data."""
    standardise: bool = False
    """Tell the network conditions in standard deviations of the training people."""
    kl_warmup: float = 0.0
    """Share of the run over which the weight of KL rises."""
    data: AnatomyConfig = AnatomyConfig()
    """Whose hearts are learned."""
    launch: LaunchConfig = LaunchConfig(cpu_devices=cpu_devices())
    """How processes find each other."""
    validation: ValidationConfig = ValidationConfig()
    """Which state is kept."""
    evaluation: GenerationConfig = GenerationConfig()
    """What is scored at the end."""
    workdir: Path = Path("runs/cheart")
    """Folder of the run; the same command on the same folder resumes."""


class Shown(NamedTuple):
    """What the report draws beside the scores.

    Attributes:
        cycles: of one person: the real one, completed ones by method, a generated one.
        features: of real and generated people by group, columns as ``FEATURES``.
        ages: of the sweep.
        sweep: mean features by sex and age.
    """

    cycles: dict[str, Integer[np.ndarray, "t d h w"]]
    features: dict[str, Float[np.ndarray, "_ k"]]
    ages: Int[np.ndarray, " a"]
    sweep: dict[str, Float[np.ndarray, "a k"]]


def run(config: Generation) -> dict[str, Any]:
    """Trains, evaluates beside baselines and controls, and reports; resumes.

    Args:
        config: the run.

    Returns:
        The evaluation, as in ``evaluation.json``.

    Raises:
        ValueError: for flags that do not fit the data.
    """
    asked = config.evaluation
    if asked.draws < 2 or min(asked.samples, asked.sweep) < 1:
        raise ValueError(
            "evaluation: expected 2 draws, 1 sample and 1 of the sweep at least"
        )
    anatomies = open_anatomies(config.data, aside=config.validation.aside)
    counts = len(anatomies.train), len(anatomies.test)
    if min(counts) < 2:
        raise ValueError(
            f"data: {counts[0]} people to train on and {counts[1]} held out, expected "
            "two of each at least: scores are of how people differ"
        )
    if not 0 <= config.evaluation.show_row < len(anatomies.test):
        raise ValueError(
            f"evaluation.show-row is {config.evaluation.show_row}, expected one of "
            f"{len(anatomies.test)} people, from 0"
        )
    trained, variables = train(config, anatomies)
    results, shown = evaluate(Generator(trained, variables), anatomies, config)
    about = config.about
    on_first(lambda: show(config.workdir, results, shown, title=about), what="report")
    return results


def train(config: Generation, anatomies: Anatomies) -> tuple[Trained, Variables]:
    """Trains, or goes on training, in the run's folder.

    Args:
        config: the run.
        anatomies: what it is trained on.

    Returns:
        What the run says of itself, and its weights on this process's first device.
    """
    rows, size = len(anatomies.train), config.data.batch_size
    _, length = config.resolved(rows=rows, batch_size=size)
    system = dataclasses.replace(
        config.system,
        shape=config.data.shape,
        frames=config.data.frames,
        warmup=round(config.kl_warmup * length.steps),
    )
    if config.standardise:
        standard = Standard.of(anatomies.train.arrays["conditions"])
        system = dataclasses.replace(
            system,
            condition_mean=tuple(map(float, standard.mean)),
            condition_deviation=tuple(map(float, standard.deviation)),
        )
    built, mesh = cheart_system(system), make_mesh(config.mesh)
    trained = Trained(
        system,
        config.data.spacing,
        anatomies.name,
        anatomies.filled,
        tuple(built.apply),
        config.validation.rule,
    )
    asked = anatomies.valid
    inside, options = watched(
        config,
        config.validation.rule,
        built.judged,
        [] if asked is None else [asked[i] for i in range(len(asked))],
        rows=rows,
        batch_size=size,
        mesh=mesh,
    )
    batches = training_batches(anatomies.train, batch_size=size, seed=config.data.seed)
    variables = inside.fit_recorded(
        lambda: trained,
        built,
        batches,
        rows=rows,
        batch_size=size,
        mesh=mesh,
        **options,
    )
    return trained, variables


class Peers(NamedTuple):
    """What a generator is held against; the same for all that see the same people.

    Attributes:
        completed: cycles of the held-out people by baseline.
        asked: conditions of which hearts are generated.
        features: of people by baseline and control.
        left_out: baselines that do not fit in memory.
    """

    completed: dict[str, Integer[np.ndarray, "n t d h w"]]
    asked: Float[np.ndarray, "m c"]
    features: dict[str, Float[np.ndarray, "_ k"]]
    left_out: list[str]


def peers_of(anatomies: Anatomies, config: Generation) -> Peers:
    """Baselines and controls.

    Args:
        anatomies: real people.
        config: of the run.

    Returns:
        The shape space is left out, and said to be, where it does not fit in memory.
    """
    spacing, options = config.data.spacing, config.evaluation
    train, test = anatomies.train.arrays, anatomies.test.arrays
    given = test["labels"][:, 0], test["conditions"]
    standard = Standard.of(train["conditions"])
    nearest = Nearest(train["labels"], train["conditions"], standard)
    # Distances are kept of all people that it learns from, or that it draws.
    most = max(len(train["labels"]), options.draws * len(test["labels"]))
    space = None
    if ShapeSpace.affordable((most, *train["labels"].shape[1:])):
        space = ShapeSpace.fit(train["labels"], train["conditions"], spacing)
    completed = {
        "first frame repeated": repeat(given[0], config.data.frames),
        "nearest person": nearest.complete(*given),
    }
    if space is not None:
        completed["shape space"] = space.complete(*given)
    asked = np.repeat(test["conditions"], options.draws, axis=0)
    rng = np.random.default_rng(options.seed)
    real = features(train["labels"], spacing)
    random_rows = rng.integers(len(real), size=len(asked))
    regression = draw_features(
        train["conditions"].astype(np.float64), _finite(real), asked, rng
    )
    groups = {}
    if space is not None:
        groups["shape space"] = features(space.draw(asked, rng), spacing)
    alike = nearest_people(train["conditions"], test["conditions"], standard)
    groups |= {
        "regression of features": regression,
        "floor": real,
        "copy": real[alike],
        "unconditional": real[random_rows],
    }
    left_out = [] if space is not None else ["shape space"]
    return Peers(completed, asked, groups, left_out)


def evaluate(
    generator: Generator,
    anatomies: Anatomies,
    config: Generation,
    peers: Peers | None = None,
) -> tuple[dict[str, Any], Shown]:
    """Completion beside baselines, generation beside controls.

    Args:
        generator: the trained one.
        anatomies: real people.
        config: of the run.
        peers: of :func:`peers_of`, where they are known.

    Returns:
        All scores, and what the report draws.
    """
    spacing, options = config.data.spacing, config.evaluation
    train, test = anatomies.train.arrays, anatomies.test.arrays
    peers = peers_of(anatomies, config) if peers is None else peers
    asked = peers.asked
    given = test["labels"][:, 0], test["conditions"]
    completed = {**peers.completed, NAME: generator.complete(*given)}
    drawn = generator.generate(asked, key=jax.random.key(options.seed))
    groups = {NAME: features(drawn, spacing), **peers.features}
    real = features(test["labels"], spacing)
    everyone = (
        np.concatenate([train["conditions"], test["conditions"]]),
        np.concatenate([groups["floor"], real]),
    )
    ages, sweep = age_sweep(generator, train["conditions"], spacing, options)
    results = {
        "data": anatomies.name,
        "people": {
            part: len(rows)
            for part in ("train", "valid", "test")
            if (rows := getattr(anatomies, part)) is not None
        },
        "left_out": peers.left_out,
        "conditions_filled": dict(anatomies.filled),
        "completion": completion_scores(completed, test["labels"], spacing),
        "ef_deviation": (
            EJECTION_DEVIATION if config.data.format == "phantom" else None
        ),
        "generation": beside_controls(real, groups, FEATURES),
        "adherence": adherence(everyone, (asked, groups[NAME])),
        "samples": sample_scores(
            _samples(generator, test["conditions"], options), test["labels"], spacing
        ),
        "spread": spreads(everyone, (asked, groups[NAME])),
        "memorisation": memorisation(drawn, test["labels"], train["labels"]),
        "closing_gap_ml": {
            "drawn": closing_gap(drawn, spacing),
            "real": closing_gap(test["labels"], spacing),
        },
        "age_slope": age_slopes(ages, sweep),
    }
    row = options.show_row
    cycles = {"real": test["labels"][row]}
    cycles |= {f"completed: {name}": found[row] for name, found in completed.items()}
    cycles |= {"generated": drawn[row * options.draws]}
    return results, Shown(cycles, {"real": real, **groups}, ages, sweep)


def _samples(
    generator: Generator,
    conditions: Float[np.ndarray, "n c"],
    options: GenerationConfig,
) -> Iterator[Integer[np.ndarray, "s t d h w"]]:
    """Several hearts of each person, one person at a time: they are many."""
    key = jax.random.key(options.seed + 2)
    for i, one in enumerate(conditions):
        asked = np.tile(one, (options.samples, 1))
        yield generator.generate(asked, key=jax.random.fold_in(key, i))


def _finite(values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """With a missing feature replaced by its mean."""
    return np.where(np.isfinite(values), values, _means(values))


def _means(values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " k"]:
    """Of every feature over those that have it; NaN where nobody has."""
    return np.array([Cases.of(column).mean for column in values.T])


def age_sweep(
    generator: Generator,
    conditions: Float[np.ndarray, "n c"],
    spacing: tuple[float, float, float],
    options: GenerationConfig,
) -> tuple[Int[np.ndarray, " a"], dict[str, Float[np.ndarray, "a k"]]]:
    """Mean features by age, all else of the mean man and the mean woman.

    Args:
        generator: the trained one.
        conditions: of the training people.
        spacing: of voxels, mm.
        options: how many draws; the same ones at every age.

    Returns:
        Ages, and features by sex.
    """
    age, sex = CONDITIONS.index("age"), CONDITIONS.index("sex")
    low, high = np.percentile(conditions[:, age], (5, 95))
    ages = np.unique(np.rint(np.linspace(low, high, 6)).astype(int))
    found = {}
    for name, code in (("men", 1.0), ("women", 0.0)):
        people = conditions[conditions[:, sex] == code]
        mean = (people if len(people) else conditions).mean(0)
        mean[sex] = code
        rows = []
        for one in ages:
            asked = np.tile(mean, (options.sweep, 1))
            asked[:, age] = one
            key = jax.random.key(options.seed + 1)
            drawn = generator.generate(asked, key=key)
            rows.append(_means(features(drawn, spacing)))
        found[name] = np.array(rows)
    return ages, found
