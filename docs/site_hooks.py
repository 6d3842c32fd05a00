"""Hooks of mkdocs: pages and pictures of other folders become pages and pictures of the site."""

import re
from pathlib import Path

from mkdocs.structure.files import File


__all__ = ["on_files", "on_page_content", "on_page_markdown"]

ROOT = Path(__file__).parents[1]
SHARED = ("CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "speed/README.md", "model_cards/*", "notebooks/*.ipynb")


def on_files(files, config):
    """Add files that are not in docs/."""
    for pattern in SHARED:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Point links out of docs/ at their copies, and links into docs/ at its pages."""
    if page.file.generated_by:
        depth = page.file.src_uri.count("/")
        return re.sub(r"(\]\()(?:\.\./)*docs/", rf"\1{'../' * depth}", markdown)
    return re.sub(r"(\]\()\.\./", r"\1", markdown)


def on_page_content(html, page, config, files):
    """Show the types of docstrings as they read, without Markdown's marks."""
    return re.sub(r"<code>([^<]*`[^<]*)</code>", lambda code: f"<code>{re.sub('[`*]', '', code[1])}</code>", html)
