"""Where a checkpoint's files are: a folder, one file, or a repository on a hub.

Only safetensors are read. A ``.bin``, ``.pt`` or ``.pth`` is a pickle, and unpickling
runs whatever code it holds; for those there is an error that says how to convert.
"""

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path

import numpy as np
from safetensors import safe_open

from medjax.data.boundary import DataError, finite, in_short, reading
from medjax.data.documents import fits, read_json

MODEL = "model"
WEIGHTS = f"{MODEL}.safetensors"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
HOW_TO_CONVERT = (
    "Pickled weights are not read, because unpickling runs the code in the file. "
    "Convert it once, where PyTorch is installed: python -m experiments.convert FILE "
    "FOLDER. On a hub, a converted copy often waits as a pull request: "
    "owner/name@refs/pr/1."
)


COMPANIONS = (
    "config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
"""Files beside the weights that decide what a tower says of a text."""


def weight_files(
    source: str | Path, *, revision: str | None = None, name: str = MODEL
) -> list[Path]:
    """The safetensors files of a checkpoint.

    Args:
      source: A safetensors file; a folder or hub repository that holds
        ``model.safetensors``, or shards and their index, in full precision or as
        ``model.fp16``; a folder with a single safetensors file of any name. A hub id is
        ``owner/name`` or ``owner/name@revision``.
      revision: Branch, tag or commit of a hub repository.
      name: What the files are called, where not ``model``, with the folder inside the
        source that they lie in: ``unet/diffusion_pytorch_model``.

    Returns:
      One path, or one per shard.

    Raises:
      FileNotFoundError: No such file, or none in the folder or repository.
      ValueError: A pickle, or a shard index that cannot be read.
      ConnectionError: The hub could not be reached.
    """
    path = Path(source)
    if path.suffix in PICKLES:
        raise ValueError(f"source: {path} is a pickle. {HOW_TO_CONVERT}")
    if path.is_file():
        return _shards(path, lambda n: path.parent / n) if _is_index(path) else [path]
    tried = _places(name)
    if path.is_dir():
        for place in tried:
            if (path / place).is_file():
                if not _is_index(path / place):
                    return [path / place]
                return _shards(path / place, lambda n: (path / name).parent / n)
        folder = (path / name).parent
        found = sorted(folder.glob("*.safetensors"))
        if len(found) == 1:
            return found
        names = [p.name for p in found]
        what = f"several safetensors and no index: {names}" if found else "none"
        held = (p.name for p in folder.iterdir()) if folder.is_dir() else iter(())
        raise FileNotFoundError(
            f"source: expected {tried[0]} or {tried[1]} in {path}, found {what}."
            + _if_pickled(held)
        )
    repository, revision = _hub_id(source, revision)
    inside = name.rpartition("/")[0]

    def shard(n: str) -> Path:
        held = f"{inside}/{n}" if inside else n
        return _fetch(repository, held, revision) or Path(n)

    for place in tried:
        if (found := _fetch(repository, place, revision)) is not None:
            return _shards(found, shard) if _is_index(found) else [found]
    raise FileNotFoundError(
        f"source: tried {tried[0]} and {tried[1]} of {_spell(repository, revision)} on "
        f"the hub; it holds neither. {HOW_TO_CONVERT}"
    )


def _places(name: str) -> list[str]:
    """Where weights and their index lie, in full precision and in half."""
    return [
        f"{name}.safetensors",
        f"{name}.safetensors.index.json",
        f"{name}.fp16.safetensors",
        f"{name}.safetensors.index.fp16.json",
    ]


def checkpoint_file(
    source: str | Path, name: str, *, revision: str | None = None
) -> Path:
    """A file that accompanies a checkpoint's weights, such as ``config.json``.

    Args:
      source: As for `weight_files`.
      name: Its name, in the same folder or repository.
      revision: Branch, tag or commit of a hub repository.

    Returns:
      Where it lies on this machine.

    Raises:
      FileNotFoundError: There is none.
      ConnectionError: The hub could not be reached.
    """
    path = Path(source)
    if path.exists():
        path = (path if path.is_dir() else path.parent) / name
        if not path.is_file():
            raise FileNotFoundError(f"source: expected {name} at {path}")
        return path
    repository, revision = _hub_id(source, revision)
    found = _fetch(repository, name, revision)
    if found is None:
        raise FileNotFoundError(
            f"source: no {name} in {_spell(repository, revision)} on the hub"
        )
    return found


def checkpoint_digest(source: str | Path, *, revision: str | None = None) -> str:
    """What a checkpoint is, wherever it lies: the key of anything computed from it.

    Args:
      source: As for `weight_files`.
      revision: Branch, tag or commit of a hub repository.

    Returns:
      SHA-256 over weights, configuration and tokenizer, in hexadecimal.

    Raises:
      FileNotFoundError: No weights there.
      ValueError: A pickle, or a shard index that cannot be read.
      ConnectionError: The hub could not be reached.
    """
    files = weight_files(source, revision=revision)
    beside = [files[0].parent / name for name in COMPANIONS]
    digest = hashlib.sha256()
    for path in (*files, *(p for p in beside if p.is_file())):
        with path.open("rb") as stream:
            own = hashlib.file_digest(stream, "sha256").hexdigest()
        # A lone file of weights may have any name.
        digest.update(f"{path.name if path in beside else 'weights'} {own}\n".encode())
    return digest.hexdigest()


def read_tensors(paths: list[Path]) -> Iterator[tuple[str, np.ndarray]]:
    """Names and arrays of safetensors files, one at a time.

    Args:
      paths: From `weight_files`.

    Yields:
      Each tensor, in the dtype it is stored in.

    Raises:
      DataError: A file that is not safetensors, is cut short, holds a NaN, or a tensor
        that another file holds as well.
    """
    seen: set[str] = set()
    for path in paths:
        with reading(path, "safetensors file"), safe_open(path, "np") as file:
            for name in file.keys():
                if name in seen:
                    raise DataError(f"{path}: {name[:80]!r} is in another shard, too")
                seen.add(name)
                tensor = file.get_tensor(name)
                yield name, finite(path, tensor, f"tensor {name[:80]!r}")


def check_sha256(paths: list[Path], expected: str) -> None:
    """Compares a checkpoint with a published digest.

    Args:
      paths: From `weight_files`; one file.
      expected: 64 hexadecimal digits.

    Raises:
      ValueError: Another digest, or a checkpoint of several files.
    """
    if len(paths) != 1:
        raise ValueError(f"sha256: expected one file to check, got {len(paths)} shards")
    with paths[0].open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected.lower():
        raise ValueError(f"sha256: expected {expected}, {paths[0].name} has {found}")


def _is_index(path: Path) -> bool:
    return bool(re.search(r"\.safetensors\.index(\.fp16)?\.json$", path.name))


def _shards(index: Path, locate: Callable[[str], Path]) -> list[Path]:
    names = read_json(index, "shard index").get("weight_map")
    if not names or not fits(names, dict[str, str]):
        raise DataError(f"{index}: expected a weight_map of tensors to shards")
    # A shard lies beside its index: a name is no path, nor longer than names can be.
    if any(Path(name).name != name or len(name) > 255 for name in names.values()):
        raise DataError(f"{index}: expected plain file names in weight_map")
    paths = [locate(name) for name in sorted(set(names.values()))]
    absent = [p.name for p in paths if not p.is_file()]
    if absent:
        raise FileNotFoundError(
            f"source: {index} names shards that are absent: {in_short(absent)}"
        )
    return paths


def _if_pickled(names: Iterator[str]) -> str:
    pickled = sorted(n for n in names if n.endswith(PICKLES))
    return f" It holds {pickled}. {HOW_TO_CONVERT}" if pickled else ""


def _hub_id(source: str | Path, revision: str | None) -> tuple[str, str | None]:
    if not HUB_ID.fullmatch(str(source)) or Path(source).suffix == ".safetensors":
        raise FileNotFoundError(
            f"source: {source} is no file, no folder, and not a hub id (owner/name)"
        )
    repository, _, pinned = str(source).partition("@")
    return repository, revision or pinned or None


def _spell(repository: str, revision: str | None) -> str:
    return f"{repository}@{revision or 'main'}"


_CACHED_ONLY: ContextVar[bool] = ContextVar("cached_only", default=False)


@contextlib.contextmanager
def without_network() -> Iterator[None]:
    """Inside, files of the hub are those that the local cache has."""
    before = _CACHED_ONLY.set(True)
    try:
        yield
    finally:
        _CACHED_ONLY.reset(before)


def _fetch(repository: str, name: str, revision: str | None) -> Path | None:
    """A file of a hub repository; None if the repository has no such file."""
    # Imported here: it takes half a second that local checkpoints need not pay.
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(
            huggingface_hub.hf_hub_download(
                repository, name, revision=revision, local_files_only=_CACHED_ONLY.get()
            )
        )
    except errors.LocalEntryNotFoundError as error:  # A kind of EntryNotFoundError.
        # A path would have come above: it says that there was no such file.
        if huggingface_hub.try_to_load_from_cache(repository, name, revision=revision):
            return None
        reason: Exception = error
    except errors.EntryNotFoundError:
        return None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise FileNotFoundError(
            f"source: {_spell(repository, revision)} is neither a local path nor "
            f"a repository on the hub that can be seen from here: {error}"
        ) from error
    except (OSError, errors.HfHubHTTPError) as error:
        reason = error
    raise ConnectionError(
        f"source: {repository} is no local path; as a hub id, {name} of "
        f"{_spell(repository, revision)} could not be fetched and is not in the local "
        f"cache: {reason}"
    ) from reason
