"""How the project writes: habits that make a sentence odd, counted where people read. CONTRIBUTING lists the rules.

`python tests/contracts/test_english.py` prints every finding with its place.
"""

import ast
import contextlib
import io
import json
import re
from collections import Counter
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
SOURCES = [path for room in ("modeling_rtd", "trainer") for path in sorted((ROOT / room).rglob("*.py"))]
PAGES = [
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "model_cards/README.md")
    ),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
]
# How many are left in the sources. Lower a number when you correct one; never raise it.
MOST = {"pages": 0, "help": 0, "errors": 0, "docstrings": 48}
WORDS = 25  # of a sentence

HABITS = {
    "is no": r"(?<!there )\b(?:is|are|was|were) no\b(?! longer| more)",
    "stand": r"\b(?:stands?|stood|standing)\b(?!-| for\b)",
    "lie": r"\b(?:lies?|lay(?! out)|lain|lying)\b",
    "where left out": r"\b(?:where|when|if) (?:it is |they are )?left out\b",
    "of ...": r"(?:^|\): |\n *[-*|] *|\S {2,})(?:Of|of) (?!course)",
    "tell": r"\b(?:tells?|told|telling)\b",
    "go on": r"\b(?:go|goes|went|gone|going) on\b",
    "whoever": r"\b(?:whoever|who of)\b",
    "be had": r"\bbe had\b",
    "want": r"(?<!you )\bwants?\b",
    "take over": r"\b(?:take|takes|took|taken|taking) (?:\w+ )?over\b",
    "inverted": r"(?:^|[.:;] |\n)(?:Refused|Missing|Needed|Kept|Given|Left out|Held out|Not measured)"
    r"(?: yet| as well)? (?:is|are)\b",
    "all else": r"\ball else\b",
    "mend": r"\bmend(?:s|ed)?\b",
    "odd idiom": r"\b(?:without a word|in the mean|some thousands|is through|begin so|no part of|many-th)\b",
}


def read_page(path):
    """The prose of a page or a notebook: paragraphs, without code, tables, headings and addresses."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell) for cell in cells)
    text = re.sub(r"```.*?```|^    [^\n]*$|<!--.*?-->", "\n", text, flags=re.DOTALL | re.MULTILINE)
    return plain(text)


def plain(text):
    """Text with one word in place of code, a formula or an address."""
    text = re.sub(r"``?[^`]+``?", "X", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"https?://\S+|\[`?([\w.]+)`?\]", "X", text)


def split_sentences(text):
    """Sentences of running text; a table's cells, a heading and an entry of a list each end one."""
    text = re.sub(r"^\s*\|.*$|^#.*$|^::: .*$|^\s*!!!.*$", "\n", text, flags=re.MULTILINE)
    for block in re.split(r"\n\s*\n|\n *(?:[-*]|\d+\.) +", text):
        yield from re.split(r"(?<=[.!?:])[\"')*]*\s+(?=[\"'(*]*[A-Z`*])", " ".join(block.split()))


def find_habits(text, has_sentences=True):
    """Pairs of a habit's name and the words around it."""
    for name, pattern in HABITS.items():
        for hit in re.finditer(pattern, text, re.IGNORECASE if name != "of ..." else 0):
            yield name, " ".join(text[max(0, hit.start() - 40) : hit.end() + 40].split())
    for sentence in split_sentences(text) if has_sentences else ():
        if len(re.findall(r"\w[\w'’./-]*", sentence)) > WORDS:
            yield "long sentence", sentence
        if sentence.count(";") > 1:
            yield "semicolons", sentence


def list_docstrings():
    """Docstrings of the sources, each entry of `Args` ending a sentence."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                text = re.sub(r"^ *(?:>>>|\.\.\.)[^\n]*$|```.*?```", "", text, flags=re.DOTALL | re.MULTILINE)
                text = re.sub(r"^( *)(\w[\w, `*]* \([^\n]*\):|\w+:)", r"\n\1\2\n\n", text, flags=re.MULTILINE)
                yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}", plain(text)


def list_errors():
    """Texts of the exceptions that the sources raise, with one word for each value."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                for argument in node.exc.args:
                    parts = getattr(argument, "values", [argument])
                    values = [getattr(part, "value", "") if isinstance(part, ast.Constant) else "X" for part in parts]
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", plain("".join(map(str, values)))


def list_help():
    """Help of `rtd` and of each verb, an entry a line."""
    from trainer.cli.main import _VERBS, main

    for verb in ("", *_VERBS):
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(io.StringIO()) as out,
            contextlib.suppress(SystemExit),
        ):
            patch.setenv("COLUMNS", "2000")
            main([verb, "--help"] if verb else ["--help"])
        yield f"rtd {verb}", re.sub(r"\n {20,}", "  ", out.getvalue())


KINDS = {
    "pages": lambda: ((path.name, read_page(path)) for path in PAGES),
    "help": list_help,
    "errors": list_errors,
    "docstrings": list_docstrings,
}


def find_all(kind):
    """Habits in all texts of a kind, with their places. Lengths in help are those of transformers' own entries."""
    return [
        (place, *habit) for place, text in KINDS[kind]() for habit in find_habits(text, has_sentences=kind != "help")
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_have_no_more_habits_than_allowed(kind):
    assert len(found := find_all(kind)) <= MOST[kind], found


if __name__ == "__main__":
    for kind in KINDS:
        found = find_all(kind)
        lines = [f"{kind}: {place}: {name}: {words}" for place, name, words in found]
        counts = Counter(name for _, name, _ in found)
        print(*lines, f"{kind}: {len(found)} {dict(counts.most_common())}", "", sep="\n")  # noqa: T201
