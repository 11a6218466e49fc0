"""Which table stands on which page, from which file, and the pages as they should be.

A new table is a line in `TABLES` and a pair of marks on its page. Values that tables of
the front page take from a file are chosen in `front`.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments import synthetic_tables
from experiments.bench import tables as bench
from experiments.compare import (
    anatomy,
    attention_effects,
    cmrxmotion,
    doors,
    doubling,
    mixing,
    motion,
    pods_page,
    pretraining,
    real_segmentation,
    reconstruction,
    rounding,
    uncertainty,
)
from experiments.results import front
from medjax.data.boundary import reading

EXPERIMENTS = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table between its marks.

    Attributes:
      page: In the folder of the experiments.
      files: In its ``results``, in the order in which `render` takes them.
      render: Contents of the files to Markdown.
    """

    page: str
    files: tuple[str, ...]
    render: Callable[..., str]


PRETRAINING, RECONSTRUCTION = "compare_pretraining.json", "compare_reconstruction.json"
STEPS = tuple(f"cpu/bench-step{kind}.json" for kind in ("", "-frozen", "-compile"))
ROUNDING, UNCERTAINTY = "compare_rounding.json", "compare_uncertainty.json"
UNROLLED, MAPS = "cpu/bench-unrolled.json", "cpu/bench-maps.json"
INPUT = "cpu/bench-input.json"
SAVED, SAVING = "cpu/bench-saved.json", "cpu/bench-saving.json"
HEART_STEPS = "cpu/bench-heart-steps.json"
FIT, CHEART = "cpu/heart-fit.json", "cpu/cheart-tiny.json"
FOLLOWED = ("cpu/deepmesh-tiny.json", "cpu/graph-motion-tiny.json")
MASKS = tuple(
    f"cpu/bench-segmentation-{task}.json"
    for task in ("lesions", "tiles", "motion", "surfaces", "samples", "volume")
)
WORDS = tuple(f"cpu/bench-{name}.json" for name in ("gloria", "mgca", "diffusion"))
SYNTHETIC = "synthetic_pretraining.json"
FRONT = "README.md"
TABLES: Mapping[str, Table] = {
    "compare_pretraining": Table("results/vlp.md", (PRETRAINING,), pretraining.table),
    "synthetic_pretraining": Table(
        "results/vlp.md", (SYNTHETIC,), synthetic_tables.table
    ),
    "compare_doors": Table("results/vlp.md", ("compare_doors.json",), doors.table),
    "compare_reconstruction": Table(
        "results/mri.md", (RECONSTRUCTION,), reconstruction.table
    ),
    "compare_doubling": Table(
        "results/mri.md", ("compare_doubling.json",), doubling.table
    ),
    "compare_attention": Table(
        "results/mri.md", ("compare_attention.json",), attention_effects.table
    ),
    "compare_rounding": Table("results/devices.md", (ROUNDING,), rounding.table),
    "compare_pods": Table("results/pods.md", ("compare_pods.json",), pods_page.page),
    "bench_step": Table("results/speed.md", STEPS, bench.steps),
    "bench_unrolled": Table("results/speed.md", (UNROLLED,), bench.unrolled),
    "bench_maps": Table("results/speed.md", (MAPS,), bench.maps),
    "bench_input": Table("results/speed.md", (INPUT,), bench.input),
    "bench_words": Table("results/speed.md", WORDS, bench.segmentation),
    "bench_saved": Table("results/speed.md", (SAVED,), bench.saved),
    "bench_saving": Table("results/speed.md", (SAVING,), bench.saving),
    "heart_fit": Table("results/heart.md", (FIT,), bench.fit),
    "bench_heart": Table("results/heart.md", ("cpu/bench-heart.json",), bench.heart),
    "bench_heart_steps": Table("results/heart.md", (HEART_STEPS,), bench.heart),
    "cheart_tiny": Table("results/heart.md", (CHEART,), bench.completion),
    "motion_tiny": Table("results/heart.md", FOLLOWED, bench.following),
    "compare_anatomy": Table(
        "results/heart.md", ("compare_anatomy.json",), anatomy.table
    ),
    "compare_motion": Table("results/heart.md", ("compare_motion.json",), motion.table),
    "compare_uncertainty": Table(
        "results/segmentation.md", (UNCERTAINTY,), uncertainty.table
    ),
    "compare_mixing": Table(
        "results/segmentation.md", ("compare_mixing.json",), mixing.table
    ),
    "compare_cmrxmotion": Table(
        "results/segmentation.md", ("compare_cmrxmotion.json",), cmrxmotion.table
    ),
    "compare_real_segmentation": Table(
        "results/segmentation.md",
        ("compare_real_segmentation.json",),
        real_segmentation.table,
    ),
    "bench_segmentation": Table("results/segmentation.md", MASKS, bench.segmentation),
    "front_vlp": Table(FRONT, (PRETRAINING,), front.vlp),
    "front_mri": Table(FRONT, (RECONSTRUCTION,), front.mri),
    "front_speed": Table(
        FRONT, (STEPS[0], STEPS[2], STEPS[1], UNROLLED, MAPS, INPUT), front.speed
    ),
}


def rendered(table: Table, folder: Path = EXPERIMENTS) -> str:
    """A table as its files have it.

    Raises:
      DataError: A file is damaged.
    """
    contents: list[Any] = []
    for name in table.files:
        path = folder / "results" / name
        with reading(path, "file of results"):
            contents.append(json.loads(path.read_text()))
    return table.render(*contents)


def between(text: str, name: str, table: str, *, page: Path) -> str:
    """A page with other text between the marks of a name.

    Raises:
      ValueError: It lacks them.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if begin not in text or end not in text:
        raise ValueError(f"{page}: the table goes between {begin} and {end}")
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"


def changed(
    tables: Mapping[str, Table] = TABLES, folder: Path = EXPERIMENTS
) -> dict[Path, str]:
    """The pages whose tables are not what the files say, as they should be."""
    pages: dict[Path, str] = {}
    for name, table in tables.items():
        path = folder / table.page
        text = pages.get(path) or path.read_text()
        pages[path] = between(text, name, rendered(table, folder), page=path)
    return {path: text for path, text in pages.items() if text != path.read_text()}
