"""A hook of MkDocs (``make docs``): the pages at the top of the repository, and links for the site.

README, CONTRIBUTING and the like become pages of the site beside those of docs/, so no text is
there twice. Links are written so that they work in the repository; here they are turned into links
of the site. What the site does not have (sources, examples) is named without a link, and a link to
a file that does not exist is left as it is, so that MkDocs refuses it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).resolve().parents[1]
DOCS: Final = "docs"

#: Files at the top of the repository → pages of the site.
PAGES: Final = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "RELEASING.md": "releasing.md",
    "CHANGELOG.md": "changelog.md",
}

_LINK: Final = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")
_ELSEWHERE: Final = re.compile(r"[a-z][a-z0-9+.-]*:|#|/")


def for_site(markdown: str, source: str) -> str:
    """Return the text of ``source``, a path from the top of the repository, with the site's links.

    Raises nothing: what cannot be resolved stays as it is.
    """
    folder = posixpath.dirname(source)
    page = _page_of(source) or source

    def replaced(link: re.Match[str]) -> str:
        if _ELSEWHERE.match(link["target"]):
            return link[0]
        path, mark, anchor = link["target"].partition("#")
        target = posixpath.normpath(posixpath.join(folder, path))
        if (ROOT / target / "README.md").is_file() and target.startswith(DOCS):
            target = f"{target}/README.md"
        found = _page_of(target)
        if found is None:
            return link["text"] if (ROOT / target).exists() else link[0]
        start = posixpath.dirname(page) or "."
        return f"[{link['text']}]({posixpath.relpath(found, start)}{mark}{anchor})"

    return _LINK.sub(replaced, markdown)


def _page_of(source: str) -> str | None:
    """Return where the site has a file of the repository, or None."""
    if source in PAGES:
        return PAGES[source]
    if source.startswith(f"{DOCS}/") and (ROOT / source).is_file():
        return source.removeprefix(f"{DOCS}/")
    return None


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from the top of the repository."""
    from mkdocs.structure.files import File  # noqa: PLC0415  # tests run without MkDocs

    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=for_site(text, source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a page of docs/ into the site's."""
    del config, files
    if page.file.generated_by is not None:
        return markdown
    return for_site(markdown, f"{DOCS}/{page.file.src_uri}")
