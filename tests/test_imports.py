"""Who may import whom: the rooms of the house, from the ground up."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A room imports from the lines above its own; rooms on one line do not import each other.
LINES = [
    {"errors", "devices", "hosts"},
    {"ranges"},
    {"arrays", "sections"},
    {"contracts"},
    {"screen"},
    {"io", "ca", "diffusion"},
    {"nn", "build"},
    {"models", "metrics", "data"},
    {"tasks", "tiling"},
    {"pipelines", "judge"},
    {"evaluators", "config"},
    {"runtime", "report"},
    {"verbs"},
    {"main"},
]

LOADERS = {"importlib", "importlib.util", "importlib.import_module", "importlib.util.spec_from_file_location"}


@cache
def nodes(source):
    """All of the syntax of ``source``, outermost first."""
    return [*ast.walk(ast.parse(source))]


def imports(source):
    """Every module that ``source`` imports, at any depth of it, by its dotted name."""
    for node in nodes(source):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def room(module):
    """``nca_gen.ca.seed.Cells`` -> ``ca``; the package itself, which holds nothing, is no room."""
    return module.split(".")[1] if "." in module else ""


def breaches(name, source):
    """What the module ``name`` imports against the order, in words."""
    line = next(i for i, rooms in enumerate(LINES) if room(name) in rooms)
    allowed = set().union(*LINES[:line], {room(name)})
    for module in imports(source):
        if module.startswith("."):
            yield f"{name}: relative import of {module}"
        elif module.split(".")[0] == "nca_gen" and room(module) not in allowed:
            yield f"{name} imports {module}"


def files(folder):
    return sorted((ROOT / folder).rglob("*.py"))


def dotted(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.slow
def test_a_room_imports_only_from_rooms_above_it():
    found = [b for f in files("nca_gen") if dotted(f) != "nca_gen" for b in breaches(dotted(f), f.read_text())]
    assert found == []


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("nca_gen.ca.seed", "from nca_gen.ca import fire", []),
        ("nca_gen.main", "def f():\n    from nca_gen.verbs.train import train", []),
        ("nca_gen.ca.seed", "from nca_gen.nn import attention", ["nca_gen.ca.seed imports nca_gen.nn.attention"]),
        ("nca_gen.ca.seed", "import nca_gen.models.geca", ["nca_gen.ca.seed imports nca_gen.models.geca"]),
        ("nca_gen.io.images", "def f():\n    from nca_gen import build", ["nca_gen.io.images imports nca_gen.build"]),
        ("nca_gen.io.images", "from . import slides", ["nca_gen.io.images: relative import of ..slides"]),
    ],
)
def test_the_order_is_enforced(name, source, expected):
    assert list(breaches(name, source)) == expected


def test_every_folder_of_the_package_is_a_room():
    assert {room(dotted(f)) for f in files("nca_gen")} - {""} <= set().union(*LINES)


def users_of(package, folder):
    return {dotted(f) for f in files(folder) if package in {m.split(".")[0] for m in imports(f.read_text())}}


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["nca_gen", "configs", "tests"])
def test_nothing_needs_tensorflow(folder):
    assert users_of("tensorflow", folder) == set()


def test_io_is_plain_numpy():
    assert users_of("jax", "nca_gen/io") == set()


@pytest.mark.slow
def test_build_is_the_only_one_to_import_by_name():
    users = {f for f in files("nca_gen") if any(m in LOADERS for m in imports(f.read_text()))}
    assert {dotted(f) for f in users} == {"nca_gen.build"}


def test_every_folder_of_the_package_says_what_it_is():
    """An __init__.py holds a docstring and, at the top, the version; nothing is imported by importing a folder."""
    for folder in {f.parent for f in files("nca_gen")}:
        docstring, *rest = ast.parse((folder / "__init__.py").read_text()).body
        assert isinstance(docstring.value.value, str)
        assert not [node for node in rest if not isinstance(node, ast.Assign)]


SYSTEMS = {f.stem for f in files("nca_gen/models")} - {"__init__", "resnet34"}  # a network whose features scores use
THEIRS = ("models", "pipelines", "evaluators")  # rooms that may know a system


def names(source):
    """Identifiers and texts of ``source`` but for docstrings and the paths of pages."""
    docstrings = {
        id(node.body[0].value)
        for node in nodes(source)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in nodes(source):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield re.sub(r"configs/\w+\.py|runs/\w+", "", node.value)
        elif isinstance(node, ast.Name | ast.Attribute):
            yield node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.alias):
            yield node.name


@pytest.mark.slow
def test_no_system_is_named_outside_the_rooms_of_systems():
    words = {
        f"{dotted(f)}: {system}"
        for f in files("nca_gen")
        if room(dotted(f)) not in THEIRS
        for name in names(f.read_text())
        for system in SYSTEMS & set(re.split(r"\W+", name))
    }
    assert words == set()


def test_a_name_of_a_system_is_seen():
    assert {"diff_nca", "fourier_diff_nca", "dit", "unet"} <= SYSTEMS
    assert "dit" in names("""from nca_gen.models import dit""")
    assert "geca.x" in names("""f("geca.x")""")
    assert [*names('"""Of geca."""')] == []
