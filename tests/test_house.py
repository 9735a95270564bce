"""The structure: imports go down, the face is light, the export list is complete."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mlflow_agent_target

PACKAGE = Path(mlflow_agent_target.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "demo" not in path.parts)

# The floors, from the top: a room (a folder, or a module beside the folders) may import from the floors below its own,
# and a folder's modules from each other. Two rooms of one floor don't know each other.
FLOORS = [
    {"cli", "plugin"},
    {"client"},
    {"evaluation", "scoring", "server"},
    {"endpoints"},
    {"batch"},
    {"tracing"},
    {"streams"},
    {"http", "formats"},
    {"target"},
    {"facts"},
    {"text", "redaction"},
    {"errors"},
]
# The modules through which a folder is entered from outside. The others are its own business.
DOORS = {
    "target": {"uri", "settings", "login", "names", "addresses", "asking", "sdk"},
    "http": {"exchange", "options", "steps", "retry", "statuses", "replies", "body"},
    "formats": {
        *("inputs", "conversion", "answers", "failures", "pieces", "growing_text", "invocations", "runs"),
        *("interface", "registry", "responses", "chat_agent", "chat_completions", "durable_agent"),
    },
    "streams": {"stream", "sse"},
    "tracing": {"spans", "call_span", "context", "one_writer"},
    "batch": {
        "run",
        "policy",
        "cells",
        "frames",
        "memory",
        "tables",
        "journal",
        "progress",
        "bar",
        "shown",
        "results",
        "exports",
        "mlflow_run",
    },
    "endpoints": {"access", "endpoint", "runs", "management", "platform", "openai_client"},
    "server": set(),  # its face alone
}
# Where third-party libraries may be imported at all, and where only inside a function.
ONLY_IN = {
    "requests": {"http"},
    "urllib3": {"http"},
    "databricks": {"target", "endpoints", "client"},
    "databricks_openai": {"endpoints"},
    "openai": {"client", "endpoints"},
    "fastapi": {"server"},
    "uvicorn": {"server"},
    "pydantic": {"formats", "server"},
    "click": {"cli"},
}
NEVER_AT_THE_TOP = {"databricks", "databricks_openai", "pandas", "numpy", "pyspark", "uvicorn", "openai", "matplotlib"}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor(name: str) -> int:
    return next(number for number, names in enumerate(FLOORS) if name in names)


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every module that a file imports, and whether it does so when it is itself imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_top = {node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(name.name, node in at_top) for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [name.name for name in node.names]
            found += [(f"{node.module}.{name}", node in at_top) for name in names]
    return found


def test_every_room_has_a_floor() -> None:
    assert sorted({room(path) for path in MODULES} - {"__init__"}) == sorted(name for names in FLOORS for name in names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_and_through_doors(path: Path) -> None:
    here = room(path)
    for name, at_top in imports(path):
        top, *rest = name.split(".")
        if top == "mlflow_agent_target" and here != "__init__" and rest[0] != "__version__":
            there = rest[0] if rest[0] in {room(module) for module in MODULES} else "__init__"
            if there == "__init__":  # a public name, through the package's face
                assert here == "cli", f"{path.name} imports {name}"
            elif there != here:
                assert floor(there) > floor(here), f"{path.name} imports {name}"
                is_module = (PACKAGE / there / f"{rest[1]}.py").exists()
                assert not is_module or rest[1] in DOORS[there], f"{path.name} imports {name}"
        assert here in ONLY_IN.get(top, {here}), f"{path.name} imports {name}"
        assert not (at_top and top in NEVER_AT_THE_TOP), f"{path.name} imports {name} at the top"


@pytest.mark.parametrize("folder", sorted(path.parent for path in PACKAGE.glob("*/__init__.py")), ids=lambda f: f.name)
def test_a_folder_lists_its_files_from_the_bottom_up(folder: Path) -> None:
    """And so there is no circle in it: a file imports only from those above it in the list."""
    face = (folder / "__init__.py").read_text(encoding="utf-8")
    listed = re.findall(r"^    (\w+)\.py ", ast.get_docstring(ast.parse(face), clean=False) or "", re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
    for number, name in enumerate(listed):
        for imported, _ in imports(folder / f"{name}.py"):
            _, _, rest = imported.partition(f"mlflow_agent_target.{folder.name}.")
            assert rest.partition(".")[0] in {"", *listed[:number], *offered(face)}, f"{name} imports {imported}"


def offered(face: str) -> set[str]:
    """The names that a folder's face offers, beside its modules, and the server's own folders."""
    return {*re.findall(r'"(\w+)"', face), "demo", "page"}


def test_no_module_is_two_ideas() -> None:
    lengths = {path.relative_to(PACKAGE): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {path: length for path, length in lengths.items() if length > 300} == {}


def test_the_core_needs_nothing_of_mlflow_but_errors_spans_and_the_contract() -> None:
    users = {room(path) for path in MODULES for name, at_top in imports(path) if at_top and name.startswith("mlflow.")}
    assert users == {"errors", "endpoints", "server", "tracing"}


def test_the_export_list_is_sorted_and_complete() -> None:
    names = [name for name in mlflow_agent_target.__all__ if name != "__version__"]
    assert names == sorted(names)
    assert set(mlflow_agent_target.__all__) <= set(dir(mlflow_agent_target))
    for name in names:
        assert getattr(mlflow_agent_target, name).__name__ == name
    public_errors = {n for n in vars(mlflow_agent_target.errors) if n.endswith("Error") and not n.startswith("_")}
    assert public_errors - {"StreamIdleError", "SignInPageError"} == {n for n in names if n.endswith("Error")}
    with pytest.raises(AttributeError, match="nope"):
        _ = mlflow_agent_target.nope


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_importing_the_package_costs_nothing() -> None:
    assert not loaded_after("import mlflow_agent_target") & {"mlflow", "requests", "pydantic", "click"}


def test_a_client_of_a_base_url_loads_no_more_than_mlflow_itself() -> None:
    mlflow_itself = loaded_after("import mlflow.deployments")
    made = loaded_after(
        "from mlflow.deployments import get_deploy_client\n"
        "client = get_deploy_client('agent-target:http://127.0.0.1:1')\n"
        "client._access.routes.transport"
    )
    assert made - mlflow_itself <= {"mlflow_agent_target"}
