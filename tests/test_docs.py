"""The documentation: it is up to date where the code says so, and leads nowhere that is not there."""

import ast
import importlib.util
import re
import unicodedata
from pathlib import Path

import pytest

from gfn_jax.__main__ import COMMANDS
from gfn_jax.config.reading import known_keys
from gfn_jax.rewards.names import RESERVED

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
OPEN_ENDED = ("task.bans.", "task.options.", "reward.function.weights.")
"""Sections whose keys are the user's."""
INTERNAL = {"is_bad_N"}
"""Names that are taken out of a step's figures before anybody sees them."""


@pytest.fixture(scope="module")
def make_reference():
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text_of(page):
    return page.read_text(encoding="utf-8")


def prose_of(page):
    """Without blocks of code, in which brackets are no links and hashes no headings."""
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)


def anchors(page):
    """What GitHub calls a page's headings."""
    found = set()
    for title in re.findall(r"^#+ (.*)$", prose_of(page), re.MULTILINE):
        kept = (c for c in title.lower() if c in " -_" or unicodedata.category(c)[0] in "LN")
        found.add("".join(kept).replace(" ", "-"))
    return found


def test_the_reference_is_what_the_code_says(make_reference):
    assert make_reference.undocumented() == []
    assert text_of(make_reference.PAGE) == make_reference.page(), "python docs/make_reference.py writes it again"


def test_the_reference_has_every_key_and_every_command(make_reference):
    page = make_reference.page()
    for key in known_keys():
        assert f"`{key}`" in page or f"`{key}." in page, key
    for command in COMMANDS:
        assert f"\n### {command}\n" in page


def test_a_comment_that_goes_on_below_is_the_key_s_and_a_table_s_are_those_of_its_users(make_reference, tmp_path):
    source = tmp_path / "base.py"
    source.write_text(
        "_SHARED = {\n    'device': 'cpu',  # of all\n}\n\n\ndef base():\n"
        "    config.one = 1  # first,\n    # and last\n    config.two = 2\n    # A heading:\n"
        "    config.three = ConfigDict({'four': 4, **_SHARED})  # a section\n    return config\n"
    )
    expected = {"one": "first, and last", "three": "a section", "three.four": "a section", "three.device": "of all"}
    assert make_reference.meanings(source) == expected


def test_the_figures_that_users_see_are_explained():
    page = text_of(ROOT / "docs" / "figures.md")
    shown = RESERVED - INTERNAL
    for place, name in (
        ("reporting/tables.py", "_HEADINGS"),
        ("evaluation/before_after.py", "_ROWS"),
        ("runs/tracking.py", "_SHOWN"),
    ):
        tree = ast.parse(text_of(ROOT / "gfn_jax" / place))
        tables = {ast.unparse(each.targets[0]): each.value for each in tree.body if isinstance(each, ast.Assign)}
        shown |= ast.literal_eval(tables[name]).keys()
    assert sorted(name for name in shown if f"`{name}`" not in page) == []


def test_the_readme_is_short():
    lines = text_of(ROOT / "README.md").splitlines()
    assert len(lines) <= 130
    assert [line for line in lines if len(line) > 100] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_the_index_leads_to_every_page():
    linked = set(re.findall(r"\]\((\w+\.md)\)", text_of(ROOT / "docs" / "index.md")))
    assert linked == {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_of_the_configuration_exist(page):
    known = set(known_keys())
    for key in re.findall(r"--config\.([a-z][\w.]*)", text_of(page)):
        key = key.rstrip(".")
        assert key in known or key.startswith(OPEN_ENDED), key
    for override in re.findall(r"\b([a-z_]+(?:__[a-z_]+)+)=", text_of(page)):
        assert override.replace("__", ".") in known, override


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_of_commands_exist(page):
    """Those that stand behind `gfn-jax COMMAND`, or `python -m gfn_jax.COMMAND`, up to the command's end."""
    of_command = {name: flags_of(name) for name in COMMANDS}
    whole = text_of(page).replace("\\\n", " ")
    for name, rest in re.findall(r"(?:gfn-jax |gfn_jax\.)(\w+)([^`\n]*)", whole):
        for flag in re.findall(r"--([a-z_]+)", rest) if name in of_command else ():
            assert flag in of_command[name] | {"help"}, (name, flag)


def flags_of(command):
    tree = ast.parse(text_of(ROOT / "gfn_jax" / f"{command}.py"))
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and "DEFINE_" in ast.unparse(node.func))
    return {ast.literal_eval(call.args[0]) for call in calls}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_calls_from_python_are_of_what_there_is(page):
    """The blocks parse; what they take of the package, it offers; calls have keywords that exist."""
    calls = [ast.parse(text_of(ROOT / "gfn_jax" / name)) for name in ("api.py", "policies.py")]
    functions = {
        node.name: {each.arg for each in (*node.args.args, *node.args.kwonlyargs)}
        for node in (node for tree in calls for node in ast.walk(tree))
        if isinstance(node, ast.FunctionDef)
    }
    offered = set(ast.literal_eval(_assigned(ast.parse(text_of(ROOT / "gfn_jax" / "__init__.py")), "__all__")))
    for block in re.findall(r"^```python\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE):
        try:
            tree = ast.parse(block)
        except SyntaxError:
            assert "return" in block or page.name == "adding_an_architecture.md", block  # a part of a function
            continue
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            called = ast.unparse(call.func)
            if called.startswith("gfn_jax.") and called.count(".") == 1:
                assert called.removeprefix("gfn_jax.") in offered
            if re.fullmatch(r"(gfn_jax|run)\.\w+", called) and not called.endswith("load_config"):
                known = functions[called.partition(".")[2]]
                assert {keyword.arg for keyword in call.keywords} <= known, ast.unparse(call)


def _assigned(tree, name):
    assignments = (each for each in tree.body if isinstance(each, ast.Assign))
    return next(each.value for each in assignments if ast.unparse(each.targets[0]) == name)
