"""The rules of the house, read from the sources: who may import what, and what every module has."""

import ast
import functools
import re
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
MODELING = sorted((ROOT / "modeling_rtd").rglob("*.py"))
SHIPPED = [path for path in MODELING if path.name != "__init__.py"]  # the Hub carries these as they are
TRAINER = sorted((ROOT / "trainer").rglob("*.py"))
DIET = {"torch", "transformers", "huggingface_hub", "safetensors", "numpy", "PIL"} | sys.stdlib_module_names

# The packages and files of the training room, lowest floor first: each imports from its own floor's files and below.
FLOORS = (
    ("data", "drawing", "loading", "methods"),
    ("app", "encoding", "publishing"),
    ("evaluation", "published_checkpoints", "triplet_making"),
    ("training",),
    ("worlds",),
    ("demo", "release"),
    ("cli",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

modules = pytest.mark.parametrize("path", MODELING + TRAINER, ids=lambda path: str(path.relative_to(ROOT)))
ROOMS = [path for path in TRAINER if path.relative_to(ROOT / "trainer").parts[0].removesuffix(".py") in FLOOR_OF]
floored = pytest.mark.parametrize("path", ROOMS, ids=lambda path: str(path.relative_to(ROOT)))
shipped = pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
TESTS = sorted(path for room in ("modeling_rtd", "trainer") for path in (ROOT / "tests" / room).rglob("test_*.py"))


def test_every_package_of_trainer_is_on_a_floor():
    assert {path.parent.name for path in (ROOT / "trainer").glob("*/__init__.py")} <= FLOOR_OF.keys()


@functools.cache
def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def absolute_imports(tree):
    """Pairs of a node and the dotted name of a module that it imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node, node.module


def public_names(tree):
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", None) == "__all__" for target in node.targets):
            return ast.literal_eval(node.value)
    return None


def bound_names(tree):
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            yield from (part.id for part in ast.walk(node) if isinstance(part, ast.Name))


def test_the_rules_see_the_sources():
    assert SHIPPED
    assert TRAINER


@pytest.mark.parametrize("path", TRAINER, ids=lambda path: str(path.relative_to(ROOT)))
def test_trainer_takes_public_names_only(path):
    allowed = set(public_names(parse(ROOT / "modeling_rtd" / "__init__.py")))
    for node, module in absolute_imports(parse(path)):
        if module.split(".")[0] == "modeling_rtd":
            assert isinstance(node, ast.ImportFrom), f"line {node.lineno}: write `from modeling_rtd import X`"
            assert module == "modeling_rtd", f"line {node.lineno}: {module} is private to its room"
            assert {alias.name for alias in node.names} <= allowed, f"line {node.lineno}: a name is not public"


@floored
def test_imports_run_down(path):
    room = path.relative_to(ROOT / "trainer").parts[0].removesuffix(".py")
    for node, module in absolute_imports(parse(path)):
        parts = module.split(".")
        if parts[0] == "trainer" and len(parts) > 1 and parts[1] != room:
            assert FLOOR_OF[parts[1]] < FLOOR_OF[room], f"line {node.lineno}: {room} may not import {parts[1]}"


def test_no_circle_of_imports():
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in TRAINER
    }
    graph = {}
    for name, path in names.items():
        imported = set()
        for node, module in absolute_imports(parse(path)):
            parts = {f"{module}.{alias.name}" for alias in node.names} & names.keys()
            imported |= parts or {module} & names.keys()
        graph[name] = imported
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", MODELING, ids=lambda path: path.name)
def test_modeling_never_imports_trainer(path):
    assert not [node.lineno for node, module in absolute_imports(parse(path)) if module.split(".")[0] == "trainer"]


def test_modeling_is_flat_and_named():
    assert {path.parent for path in MODELING} == {ROOT / "modeling_rtd"}
    assert not [path.name for path in SHIPPED if not path.name.endswith("_rtd.py")]


@shipped
def test_siblings_are_imported_by_name(path):
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1, f"line {node.lineno}: nothing lies above this folder on the Hub"
            assert node.module, f"line {node.lineno}: write `from .name_rtd import thing`"
            assert (path.parent / f"{node.module}.py") in SHIPPED, f"line {node.lineno}: no file {node.module}.py"


@shipped
def test_no_text_reads_like_a_relative_import(path):
    # transformers finds the files to copy by this pattern, in docstrings as well.
    strings = [n for n in ast.walk(parse(path)) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    assert not [n.lineno for n in strings if re.search(r"^\s*(from\s+\.|import\s+\.)", n.value, re.MULTILINE)]


@shipped
def test_third_party_diet(path):
    tree = parse(path)
    guarded = {id(part) for node in ast.walk(tree) if isinstance(node, ast.Try) for part in ast.walk(node)}
    imports = [(node.lineno, module) for node, module in absolute_imports(tree) if id(node) not in guarded]
    assert not [(line, module) for line, module in imports if module.split(".")[0] not in DIET]


def place_test(path):
    """Where the test of a source file is; that of a package's `__init__.py` has the name of the package."""
    place = path.relative_to(ROOT)
    name = place.parent.name if path.name == "__init__.py" else place.stem
    return ROOT / "tests" / place.parent / f"test_{name}.py"


def has_code(path):
    """Whether a file is more than the `__init__.py` of a package, with imports and `__all__` alone."""
    plain = ast.Import | ast.ImportFrom
    return path.name != "__init__.py" or not all(
        isinstance(node, plain)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        or (isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "__all__")
        for node in parse(path).body
    )


@modules
def test_every_source_has_a_test_of_its_name(path):
    assert place_test(path).is_file() or not has_code(path)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT / "tests")))
def test_every_test_names_a_source(path):
    assert path in {place_test(source) for source in MODELING + TRAINER}


@modules
def test_print_stays_in_the_command_line(path):
    if path.is_relative_to(ROOT / "trainer" / "cli"):
        return
    calls = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
    assert not [node.lineno for node in calls if getattr(node.func, "id", None) == "print"]


@modules
def test_public_names_are_listed_and_documented(path):
    tree = parse(path)
    if all(isinstance(node, ast.Expr) for node in tree.body):
        return  # nothing but a docstring
    listed = public_names(tree)
    assert listed is not None, "the module has no `__all__`"
    assert path.name == "__init__.py" or set(listed) <= set(bound_names(tree)), "`__all__` lists an unknown name"
    definitions = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    assert not [n.name for n in definitions if not n.name.startswith("_") and not ast.get_docstring(n)]


@modules
def test_no_function_is_longer_than_60_lines_without_its_docstring(path):
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            has_docstring = ast.get_docstring(node) is not None
            lines = node.end_lineno - node.lineno + 1 - has_docstring * (first.end_lineno - first.lineno + 1)
            assert lines <= 60, f"{node.name}: {lines} lines"
