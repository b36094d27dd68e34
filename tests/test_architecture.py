"""The house keeps its plan: who imports whom, how long a module and a function may be, and what the supervisor's process never loads."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli

ROOT = Path(__file__).parent.parent
MODULES = sorted(path for top in ("supervisor", "workers") for path in (ROOT / top).rglob("*.py"))
PROJECT = tomli.loads((ROOT / "pyproject.toml").read_text())

MODULE_LINES = 300
FUNCTION_LINES = 70
LONGER: dict[str, str] = {
    "supervisor/core/events.py": "the one list of all that can happen, a few lines each",
    "supervisor/shapes.py": "the one list of what people and programs read, a few lines each",
}
"""Modules and functions that may be longer, each with its reason: {"supervisor/x.py": "...", "supervisor/x.py:name": "..."}. Empty is best."""

MAY_IMPORT = {
    "__init__": set[str](),
    "__main__": {"cli", "early"},
    "cli": {"cli", "control", "shapes", "config", "units", "errors"},
    "app": {
        "settings",
        "service",
        "job_service",
        "device_service",
        "memory_service",
        "adapters",
        "config",
        "runtime",
        "core",
        "control",
        "wire",
        "shapes",
        "units",
        "errors",
        "early",
    },
    "settings": {"adapters", "config", "runtime", "core", "errors"},
    "service": {"adapters", "core", "errors"},
    "job_service": {"adapters", "runtime", "core", "errors"},
    "device_service": {"adapters", "runtime", "core"},
    "memory_service": {"adapters", "runtime", "core", "units", "errors"},
    "front": {"front", "control", "shapes", "units", "errors"},
    "client": {"client", "config", "control", "errors"},
    "helpers": {"helpers", "wire", "config", "probing", "errors"},
    "config": {"config", "core", "units", "cron", "errors"},
    "adapters": {"adapters", "runtime", "core", "control", "wire", "probing", "shapes", "units", "errors"},
    "runtime": {"runtime", "core", "shapes", "units", "cron", "errors"},
    "core": {"core", "units", "errors"},
    "wire": {"errors"},
    "control": {"errors", "shapes"},
    "probing": {"errors"},
    "units": set[str](),
    "early": set[str](),
    "cron": set[str](),
    "shapes": set[str](),
    "errors": set[str](),
}
"""What each room of supervisor/ may import of supervisor. import-linter proves the indirect ways; this proves each line."""

CORE_LIBRARIES = {"msgspec"}
NEVER_LOADED = {"torch", "torchvision", "ultralytics", "cv2", "numpy", "fastapi", "starlette", "uvicorn", "pynvml", "rich", "click"}


def name_of(path: Path) -> str:
    """Return the path as a person names it."""
    return path.relative_to(ROOT).as_posix()


def room_of(path: Path) -> str:
    """Return the room of a module in supervisor/: "core" for supervisor/core/limits.py."""
    return path.relative_to(ROOT / "supervisor").parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each imported module and its line, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from supervisor import config` names the room in the second half.
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "supervisor" else [node.module]
            yield from ((name, node.lineno) for name in names)


def test_the_import_contracts_are_kept() -> None:
    linter = Path(sys.executable).parent / "lint-imports"

    kept = subprocess.run([linter, "--no-cache", "--config", "pyproject.toml"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert kept.returncode == 0, kept.stdout + kept.stderr


def test_each_room_that_exists_stands_in_the_contracts() -> None:
    rooms = {room_of(path) for path in MODULES if path.is_relative_to(ROOT / "supervisor")} - {"__init__"}
    layers = next(contract for contract in PROJECT["tool"]["importlinter"]["contracts"] if contract["id"] == "rooms")["layers"]
    in_layers = {room for layer in layers for room in re.findall(r"\w+", layer)}

    assert rooms <= in_layers
    assert rooms <= set(MAY_IMPORT)
    assert in_layers == set(MAY_IMPORT) - {"__init__"}


@pytest.mark.parametrize("path", [path for path in MODULES if path.is_relative_to(ROOT / "supervisor")], ids=name_of)
def test_a_module_of_supervisor_imports_only_what_its_room_may(path: Path) -> None:
    room = room_of(path)
    allowed = MAY_IMPORT[room] | ({"app"} if name_of(path) == "supervisor/cli/run.py" else set())

    for module, line in imports(path):
        top, _, rest = module.partition(".")
        if top == "supervisor" and rest not in {"", "__version__"}:
            assert rest.split(".")[0] in allowed, f"{name_of(path)}:{line}: {room} may not import {module}"
        assert top != "workers", f"{name_of(path)}:{line}: nothing imports workers; they are started by command line"
        if room == "core":
            assert top in sys.stdlib_module_names | CORE_LIBRARIES | {"supervisor"}, f"{name_of(path)}:{line}: core may not import {module}"


@pytest.mark.parametrize("path", [path for path in MODULES if path.is_relative_to(ROOT / "workers")], ids=name_of)
def test_a_module_of_workers_imports_of_supervisor_wire_alone(path: Path) -> None:
    wrong = [f"{name_of(path)}:{line}: {module}" for module, line in imports(path) if module.startswith("supervisor") and module != "supervisor.wire"]

    assert wrong == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_its_one_duty_and_is_not_too_long(path: Path) -> None:
    text = path.read_text()
    lines = len(text.splitlines())
    if not text.strip():
        return

    assert ast.get_docstring(ast.parse(text)), f"{name_of(path)} does not say what it is for in its first line"
    assert lines <= MODULE_LINES or name_of(path) in LONGER, f"{name_of(path)} has {lines} lines, {MODULE_LINES} are the stop: split it by duty"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_function_is_not_too_long(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            name = f"{name_of(path)}:{node.name}"
            assert lines <= FUNCTION_LINES or name in LONGER, f"{name} (line {node.lineno}) has {lines} lines, {FUNCTION_LINES} are the stop"


def test_no_module_is_named_for_nothing() -> None:
    nameless = {"utils", "util", "helper", "common", "misc", "manager", "managers"}

    assert [name_of(path) for path in MODULES if nameless & {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}] == []


def test_an_exception_for_length_is_still_needed() -> None:
    names = {name_of(path) for path in MODULES}

    assert [entry for entry in LONGER if entry.split(":")[0] not in names] == []


def test_the_supervisor_process_never_loads_a_model_library_or_a_web_framework() -> None:
    code = "import sys, supervisor.app; print('\\n'.join(sorted(sys.modules)))"

    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr
    assert NEVER_LOADED & set(run.stdout.split()) == set()
    assert not [name for name in run.stdout.split() if name.startswith("supervisor.helpers")]


def test_only_the_probe_names_the_binding_to_the_driver() -> None:
    named = [name_of(path) for path in MODULES if any(module.partition(".")[0] == "pynvml" for module, _ in imports(path))]

    assert named == ["supervisor/helpers/nvml.py", "supervisor/helpers/xids.py"]


def test_importing_the_sdk_loads_no_model_library() -> None:
    code = "import sys, workers.base; print('\\n'.join(sorted(sys.modules)))"

    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr
    assert (NEVER_LOADED | {"psutil", "structlog", "tomli"}) & set(run.stdout.split()) == set()


def test_the_command_that_the_package_installs_exists() -> None:
    module, _, function = PROJECT["project"]["scripts"]["warden"].partition(":")

    path = ROOT.joinpath(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")

    assert re.search(rf"\b{function}\b", source.read_text()), f"{name_of(source)} has no {function}"
