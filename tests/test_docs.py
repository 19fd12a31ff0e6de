"""The documents are true: generated pages are fresh, links resolve, every name is documented, every command exists."""

import ast
import importlib.util
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
import typer.main

from raypost.cli.app import app
from raypost.errors import all_error_classes
from raypost.model.audit import EventKind
from raypost.node.demo import Outcome
from raypost.settings import Settings
from raypost.transfer import receiver, sender

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
COMMANDS = typer.main.get_command(app)


def name(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and GitLab make them."""
    found: set[str] = set()
    for title in re.findall(r"^#{1,6} +(.+?) *$", without_code(text), re.MULTILINE):
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
        found.add(re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-"))
    return found


def without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)


def test_generated_pages_are_fresh():
    done = subprocess.run(
        [sys.executable, "tools/generate_docs.py", "--check"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        env={**os.environ, "COLUMNS": "47", "RAYPOST_CONFIG": "elsewhere.toml", "FORCE_COLOR": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_resolve(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", without_code(text))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{target} leads nowhere"
        assert ROOT in there.parents, f"{target} leads out of the repository"
        if anchor:
            assert anchor in anchors(there.read_text()), f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_nothing_of_this_machine(page):
    text = page.read_text()
    for word in ("../shared", "/work/", "/root/", "/tmp/w", "/home/", str(ROOT)):
        assert word not in text, word
    assert not re.search(r"\b[Ii]ssue #?\d", text), "an issue's number"


def test_every_page_can_be_found():
    linked: set[pathlib.Path] = set()
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s#]+)", page.read_text()):
            linked.add((page.parent / target).resolve())
    lonely = [name(page) for page in PAGES if page not in linked and page.name not in ("README.md",)]
    assert not lonely


def test_architecture_is_short_and_names_what_exists():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert text.count("\n") <= 300
    by_hand = re.sub(r"<!-- generated: tree -->.*<!-- end of generated: tree -->", "", text, flags=re.DOTALL)
    for path in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", by_hand):
        assert (ROOT / "src" / "raypost" / path).exists() or (ROOT / path).exists(), path


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=name)
def test_modules_and_tests_that_are_named_exist(page):
    text = page.read_text()
    for path in re.findall(r"`((?:[a-z_]+/)*[a-z_0-9]+\.py)`", text):
        inside = [ROOT / path, ROOT / "src" / path, ROOT / "src" / "raypost" / path]
        bare = "/" not in path and any((ROOT / "src" / "raypost").rglob(path))
        assert bare or any(one.exists() for one in inside), path
    for file, test in re.findall(r"(tests/[a-z0-9_/]+\.py)::(\w+)", text):
        tree = ast.parse((ROOT / file).read_text())
        assert test in {one.name for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)}, f"{file}::{test}"


def test_every_setting_is_documented_and_has_help():
    text = (ROOT / "docs/reference/settings.md").read_text()
    schema = Settings.model_json_schema()
    for section, definition in [("", schema), *schema["$defs"].items()]:
        for setting, one in definition["properties"].items():
            if "$ref" in one or setting == "relay":
                continue
            assert one.get("description"), f"{section}.{setting} has no help"
            assert f"| `{setting}` |" in text, f"{section}.{setting}"


def test_every_error_code_event_and_state_is_documented():
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "tools" / "generate_docs.py")
    generate_docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate_docs)
    generate_docs.load_everything()
    errors = (ROOT / "docs/reference/errors.md").read_text()
    classes = [one for one in all_error_classes() if one.__module__.startswith("raypost.")]
    codes = [one.code for one in classes]
    assert len(set(codes)) == len(codes), "a code that means two things"
    for one in classes:
        assert f"## {one.code}\n" in errors and one.meaning in errors and one.do in errors
    events = (ROOT / "docs/reference/events.md").read_text()
    assert all(f"| `{kind.value}` |" in events for kind in EventKind)
    states = (ROOT / "docs/reference/states.md").read_text()
    for state in [*sender.SenderState, *receiver.ReceiverState]:
        assert f"`{state.value}`" in states


def test_every_command_is_documented():
    text = (ROOT / "docs/reference/cli.md").read_text()
    shapes = (ROOT / "docs/reference/json-shapes.md").read_text()
    for words, command in leaf_commands(COMMANDS):
        called = " ".join(("raypost", *words))
        assert f" `{called}`\n" in text
        if "--json" in options(command):
            assert f"### `{called}`\n" in shapes, f"the JSON shape of {called}"


def test_every_figure_of_the_demonstration_is_documented():
    text = (ROOT / "docs/reference/json-shapes.md").read_text()
    assert all(f"| `{key}` |" in text for key in Outcome.__dataclass_fields__)


def test_every_dependency_has_a_licence_and_a_reason():
    text = (ROOT / "docs/adr/0011-dependencies.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for one in [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]:
        package = re.match(r"[A-Za-z0-9\-]+", one)[0]
        assert f"| {package} |" in text, package


def leaf_commands(command, words=()):
    inner = getattr(command, "commands", None)
    if inner is None:
        yield words, command
        return
    for word, one in inner.items():
        yield from leaf_commands(one, (*words, word))


def options(command):
    return {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"--help"}


def command_lines(page):
    """Every `raypost ...` that a page shows: in blocks of sh, and in code within a sentence."""
    text = page.read_text()
    for block in re.findall(r"^ *```sh[^\n]*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(r"(?:sudo -u raypost |env |[A-Z_]+=\S+ )*(?:\S*/)?raypost +(.*)$", line.strip())
            if found and not found[1].startswith("-s"):
                yield found[1]
    yield from re.findall(r"`raypost ([^`\n]+)`", without_code(text))


@pytest.mark.parametrize("page", [one for one in PAGES if name(one) != "docs/reference/cli.md"], ids=name)
def test_every_command_line_exists(page):
    for line in command_lines(page):
        words = shlex.split(re.split(r" [>|#&] ?| #", line.replace("…", ""))[0], comments=True)
        command = COMMANDS
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        if getattr(command, "commands", None) and words and not words[0].startswith("-"):
            pytest.fail(f"raypost {line}: there is no command {words[0]!r}")
        known = options(command)
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in known, f"raypost {line}: no option {word}"
            elif re.fullmatch(r"-[a-z]", word):
                assert word in known, f"raypost {line}: no option {word}"


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"`make ([a-z-]+)", page.read_text()):
            assert target in targets, f"{name(page)}: make {target}"


def test_the_test_can_fail(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\nraypost send x --two y\nsudo -u raypost raypost check --partner a\n```\nand `raypost study lst`\n"
    )
    assert list(command_lines(page)) == ["send x --two y", "check --partner a", "study lst"]
    with pytest.raises(AssertionError):
        test_every_command_line_exists(page)
