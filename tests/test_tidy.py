"""Rules of the house that no linter knows."""

import ast
import pathlib

import pytest

SOURCE = pathlib.Path(__file__).parents[1] / "src" / "raypost"
MODULES = sorted(SOURCE.rglob("*.py"))
PURE = {
    "abc",
    "base64",
    "binascii",
    "bisect",
    "collections",
    "contextlib",
    "dataclasses",
    "datetime",
    "decimal",
    "enum",
    "fnmatch",
    "fractions",
    "functools",
    "hashlib",
    "heapq",
    "hmac",
    "itertools",
    "json",
    "math",
    "operator",
    "raypost",
    "re",
    "statistics",
    "string",
    "struct",
    "types",
    "typing",
    "unicodedata",
    "zlib",
    "__future__",
}
AMBIGUOUS = {"uid", "key", "part", "tag", "status"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_module(path: pathlib.Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "the first docstring line is the module's line in ARCHITECTURE.md"
    if "migrations" not in path.parts:  # a step of the schema is one step, however many tables it makes
        assert text.count("\n") <= 500
    assert "FIXME" not in text
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            said = ast.get_docstring(node)
            length = node.end_lineno - node.lineno + 1 - (said.count("\n") + 1 if said else 0)
            if "migrations" not in path.parts:
                assert length <= 70, node.name
            assert said or node.name.startswith("_"), f"{node.name} has no docstring"
            names = {arg.arg for arg in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]}
            assert not names & AMBIGUOUS or node.name in FOREIGN, f"{node.name}: say which"
            assert (
                not node.name.startswith(("handle_", "process_", "do_"))
                or node.name == "handle_timer"
                or node.name in FOREIGN
            ), node.name


FOREIGN = {"handle_RCPT", "handle_DATA", "handle_MAIL", "handle_EHLO", "finish_job"}
"""Names that a library calls; they cannot be ours."""


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if p.relative_to(SOURCE).parts[0] in ("model", "transfer", "errors.py")],
    ids=lambda p: str(p.relative_to(SOURCE)),
)
def test_pure_modules_import_only_what_is_listed(path: pathlib.Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= PURE
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module.split(".")[0] in PURE
        elif isinstance(node, ast.Name):
            assert node.id not in ("__import__", "open", "print", "input", "eval", "exec")
