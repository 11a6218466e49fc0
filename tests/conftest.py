"""Every test runs on eight host devices, with no silent dtype or rank promotion."""

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# What one test has compiled, no later one and no program that a test starts compiles
# again. A folder for each of pytest's processes (workers inherit the variable), since
# an entry may be read while another process still writes it; never the user's own.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled_")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
os.environ["JAX_REMOVE_CUSTOM_PARTITIONING_PTR_FROM_CACHE_KEY"] = "true"

import jax
import pytest
from jaxtyping import install_import_hook

from tests.compiling import quickly

atexit.register(
    shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True
)

# Most of the suite's time is XLA's, and four fifths of that goes with LLVM's
# optimisation: programs get slower and their last bits differ, which no test is about.
# JAX 0.10 can be asked for the older, lighter code generator as well. Programs that
# tests start inherit both.
_XLA_FLAGS = ["--xla_backend_optimization_level=0"]
if jax.__version_info__ < (0, 11):
    _XLA_FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([*_XLA_FLAGS, os.environ.get("XLA_FLAGS", "")])

# Tracing makes many objects that stay: to look through them for cycles as often as
# Python does by itself takes a tenth of its time.
gc.set_threshold(50_000, 10, 10)

# Shapes in signatures are checked on every call, in tests only. Not by the pytest
# option of jaxtyping: it splits a checker with arguments at its commas.
install_import_hook(
    ["medjax", "medjax_kernels"],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much of the mutation test is run; its files are the same every time."""
    group = parser.getgroup("mutation")
    add = group.addoption
    add("--mutations", type=int, default=0, help="damaged files in all, such as 10000")
    add("--mutation-seed", type=int, default=0, help="other seeds damage otherwise")
    chips = parser.getgroup("chips")
    words = "every program of every kernel for every chip that is not here (minutes)"
    chips.addoption("--every-program", action="store_true", help=words)
    traffic = parser.getgroup("traffic")
    words = "what travels in the step of every system over every mesh (many minutes)"
    traffic.addoption("--traffic", action="store_true", help=words)


@pytest.fixture
def quick_compiler() -> Iterator[None]:
    """For a test of programs that run once or twice."""
    with quickly():
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of small real files beside the checkout; absent: a named skip."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real files are not beside this checkout ({folder.name}/ absent)")
    return folder
