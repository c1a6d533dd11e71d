"""What the site shows beside its own pages: the README as its first page, and the pictures, results and examples that
pages link to, which lie elsewhere in the repository.

Pages link as the repository wants it, ../examples/style.jpg, and the README docs/style.md; in the site all lie beside
each other. mkdocs, which is strict, says which link leads nowhere.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r'(\]\(|src=")(?!http)([\w./-]+)')


@event_priority(100)  # before the plugin that checks links asks which files there are
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the README, and the files outside of docs/ to which a page links."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=readme))
    pending = [page.content_string for page in files.documentation_pages()]
    while pending:
        for _, link in LINK.findall(pending.pop()):
            name = _place(link)
            if (ROOT / name).is_file() and files.get_file_from_path(name) is None:
                files.append(File(name, str(ROOT), config["site_dir"], config["use_directory_urls"]))
                pending += [(ROOT / name).read_text(encoding="utf-8")] if name.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to where the files lie in the site."""
    inside = page.file.src_uri.count("/")  # pages of examples/ link to their neighbours
    return markdown if inside else LINK.sub(lambda link: link[1] + _place(link[2]), markdown)


def _place(link: str) -> str:
    return link.removeprefix("../").removeprefix("docs/")
