"""What importing the library costs, and which of its parts may know which."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import modprop_jax as mpj


PACKAGE = Path(mpj.__file__).parent
# What tasks, figures and the command line need, and the extras: imported where they are used.
LATE = {"matplotlib", "rich", "scipy", "sklearn", "tyro"}
LATE |= {"aeon", "asdex", "braintrace", "mnist1d", "neurogym", "tensorboardX"}
# What a part of the package must not know. The core is all that is not named.
ABOVE = {
    "core": {"baselines", "diagnostics", "tasks", "experiments"},
    "baselines": {"diagnostics", "tasks", "experiments"},
    "diagnostics": {"baselines", "tasks", "experiments"},
    "tasks": {"baselines", "diagnostics", "experiments"},
    "experiments": set(),
}


def imported(path: Path) -> Iterator[str]:
    """Full names of all that a file imports, inside of functions too."""
    package = [PACKAGE.name, *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            around = package[: len(package) + 1 - node.level] if node.level else []
            origin = [*around, *filter(None, [node.module])]
            yield from (".".join([*origin, alias.name]) for alias in node.names)


def parts(path: Path) -> set[str]:
    """The parts of the package that a file imports; the package as a whole has all of them."""
    names = [name.split(".") for name in imported(path)]
    own = [name[1:] for name in names if name[0] == PACKAGE.name]
    return {name[0] for name in own if name} | (set(ABOVE) if [] in own else set())


def test_importing_the_package_loads_nothing_that_only_some_need():
    code = f"import sys, modprop_jax; print(*{LATE} & {{n.split('.')[0] for n in sys.modules}})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_no_part_imports_from_those_above_it():
    gathering = PACKAGE / "__init__.py"
    assert {"baselines", "tasks", "diagnostics"} <= parts(gathering)
    found = {
        str(path.relative_to(PACKAGE)): parts(path)
        & ABOVE.get(path.relative_to(PACKAGE).parts[0], ABOVE["core"])
        for path in PACKAGE.rglob("*.py")
        if path != gathering
    }
    assert not {path: parts for path, parts in found.items() if parts}
