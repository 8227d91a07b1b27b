"""What MkDocs calls: the pages are assembled, and references in docstrings become links."""

from pathlib import Path

from assemble import ROOT, assemble
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from reference import PAGES, linked
from sections import PageError


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put the assembled pages in the place of those read from docs/pages, and add files."""
    try:
        site = assemble(ROOT)
    except PageError as error:
        raise PluginError(str(error)) from error
    for place, text in site.pages.items():
        if (read := files.get_file_from_path(place)) is not None:
            files.remove(read)
        files.append(File.generated(config, place, content=text))
    for place, held in site.files.items():
        if isinstance(held, Path):
            files.append(File.generated(config, place, abs_src_path=str(held)))
        else:
            files.append(File.generated(config, place, content=held))
    return files


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the roles of docstrings, such as ``:func:``, into links."""
    return linked(html, page.url) if page.file.src_uri in PAGES else html
