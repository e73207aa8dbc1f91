"""Where recorded data come from: a path, a folder of the user's, or a package that carries them."""

import functools
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from .. import _arguments as arguments


# a folder in which files are looked for before the packages
FOLDER = "MODPROP_JAX_DATA"


class MissingData(ValueError):
    """Data that no package may ship, and that are not here."""


def as_path(path: object) -> str | os.PathLike | None:
    """The path, or None; else a ValueError."""
    words = "the name of a file or a folder, or None"
    return None if path is None else arguments.instance("path", path, str | os.PathLike, words)


def source_of(
    what: str,
    names: Sequence[str],
    path: str | os.PathLike | None,
    *,
    packages: Mapping[str, Sequence[str]] = {},
    otherwise: str,
) -> Path:
    """The first of these files that is there. Packages are searched, not imported.

    **Arguments:** `what`: said in errors. `path`: a file, whatever its name, or a folder; None: the
    folder that the environment's MODPROP_JAX_DATA names, then the packages, in which the files may
    have names of their own. `otherwise`: where the data are to be had.
    """
    if path is not None:
        given = Path(path)
        if given.is_file():
            return given
        inside = _first(given, names)
        if inside is None:
            raise ValueError(
                f"path of {what} is {os.fspath(path)!r}, which is neither a file nor a folder with "
                f"{' or '.join(names)}."
            )
        return inside
    folder = os.environ.get(FOLDER)
    if folder and (inside := _first(Path(folder), names)) is not None:
        return inside
    for package, files in packages.items():
        if (inside := _within(package, tuple(files))) is not None:
            return inside
    raise MissingData(
        f"{what}: {otherwise}, or name a folder with {' or '.join(names)} by the environment's "
        f"{FOLDER}."
    )


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


@functools.cache
def _within(package: str, names: tuple[str, ...]) -> Path | None:
    """A file of an installed package, wherever this keeps its data."""
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        for name in names:
            if (found := next(Path(folder).rglob(name), None)) is not None:
                return found
    return None
