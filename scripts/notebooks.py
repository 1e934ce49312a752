"""Write the notebook beside every chapter: book/x.md, the MyST source, gives book/x.ipynb, for Colab and editors.

    python scripts/notebooks.py          write those that differ
    python scripts/notebooks.py --check  write nothing; name the stale ones and exit 1

A notebook carries no outputs, and its cell ids come from the cells' own text, so that the same source always
gives the same bytes and an inserted cell does not rename the others. MyST's roles and directives, which only the
book understands, become plain Markdown; a figure's caption, kept in the cell's metadata, becomes a line below it.
Its first code cell, which the chapter does not have, looks for rmlab: `setup_cell.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from pathlib import Path

import jupytext
import nbformat
import setup_cell
from repository import address, badge

BOOK = Path(__file__).resolve().parent.parent / "book"
OPENS = re.compile(r"^(:{3,}|`{3,})\{([\w:-]+)\}[ \t]*(.*)$")
NOTES = {"note", "tip", "warning", "important", "seealso", "hint", "caution", "admonition", "exercise"}


def convert(path: Path, url: str = "") -> str:
    """The notebook of one MyST chapter, as JSON text; `url` is where the repository is published, or ""."""
    notebook = jupytext.read(path)
    notebook.metadata.pop("jupytext", None)
    figures = [f for f in (cell.metadata.get("mystnb", {}).get("figure") for cell in notebook.cells) if f]
    numbers = {figure["name"]: f"Figure {i}" for i, figure in enumerate(figures, 1) if "name" in figure}
    labels = re.findall(
        r"^\$\$ ?\(([\w:-]+)\)", "\n".join(cell.source for cell in notebook.cells), flags=re.M
    )
    numbers |= {label: f"({i})" for i, label in enumerate(labels, 1)}

    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = roles(plain(cell.source), numbers)
        elif cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        cells.append(cell)
        if figure := cell.metadata.get("mystnb", {}).get("figure"):
            name = numbers.get(figure.get("name"), "Figure")
            caption = f"**{name}.** {roles(figure.get('caption', ''), numbers)}".strip()
            cells.append(nbformat.v4.new_markdown_cell(caption))
    first = next(i for i, cell in enumerate(cells) if cell.cell_type == "code")
    setup = nbformat.v4.new_code_cell(setup_cell.source(url), metadata={"tags": ["remove-cell", "setup"]})
    cells.insert(first, setup)
    if url:
        cells.insert(0, nbformat.v4.new_markdown_cell(badge(url, path.with_suffix(".ipynb").name)))

    seen: dict[str, int] = {}
    for cell in cells:
        again = seen[cell.source] = seen.get(cell.source, -1) + 1
        cell.id = hashlib.sha1(f"{path.name}\n{again}\n{cell.source}".encode()).hexdigest()[:8]
    notebook.cells = cells
    return nbformat.writes(notebook) + "\n"


def plain(text: str) -> str:
    """MyST directives as plain Markdown: quotes, details, images, or their bare text."""
    out, lines = [], text.split("\n")
    while lines:
        line = lines.pop(0)
        opening = OPENS.match(line)
        if opening is None:
            out.append(line)
            continue
        fence, name, title = opening.groups()
        body = []
        while lines and not re.fullmatch(rf"{fence[0]}{{{len(fence)},}}\s*", lines[0]):
            body.append(lines.pop(0))
        del lines[:1]  # the closing fence
        out.append(render(name, title.strip(), body))
    return "\n".join(out)


def render(name: str, title: str, body: list[str]) -> str:
    """One directive: its name, its argument and the lines inside it, options first."""
    options = {}
    while body and (option := re.match(r"^:([\w-]+):\s*(.*)$", body[0])):
        options[option[1]] = option[2]
        body = body[1:]
    text = "\n".join(body).strip("\n")
    if name in ("image", "figure"):
        return f"![{options.get('alt', '')}]({title})" + (f"\n\n{plain(text)}" if text else "")
    if name == "math":
        return f"$$\n{text}\n$$"
    if name in ("code", "code-block"):
        return f"```{title}\n{text}\n```"
    if name == "dropdown":
        return f"<details><summary>{title or 'More'}</summary>\n\n{plain(text)}\n\n</details>"
    if name in NOTES:
        head = title or name.capitalize()
        return "\n".join(f"> {line}".rstrip() for line in f"**{head}.** {plain(text)}".split("\n"))
    if name in ("tableofcontents", "bibliography", "toctree", "eval-rst"):
        return ""
    words = f"**{title}**" if re.search("[a-zA-Z]", title) else ""  # a grid's columns are no title
    return "\n\n".join(part for part in (words, plain(text)) if part)


def roles(text: str, numbers: dict[str, str]) -> str:
    """MyST roles as plain Markdown. `numbers` says how a labelled figure or equation is called: {"fig-x": "Figure 1"}."""

    def titled(match: re.Match) -> str:
        path = BOOK / f"{match[1]}.md"
        heading = re.search(r"^# (.+)$", path.read_text("utf-8"), flags=re.M) if path.exists() else None
        return f"[{heading[1] if heading else match[1]}]({match[1]}.ipynb)"

    def cited(match: re.Match) -> str:
        names = "; ".join(
            re.sub(r"^([a-z]+)(\d{4})$", r"\1 \2", key.strip()).capitalize() for key in match[2].split(",")
        )
        return names if match[1] == "cite:t" else f"({names})"

    for pattern, replacement in (
        (r"\{doc\}`([^`<]+?)\s*<([^>`]+)>`", r"[\1](\2.ipynb)"),
        (r"\{doc\}`([^`<]+)`", titled),
        (r"\{(cite(?::[pt])?)\}`([^`]+)`", cited),
        (r"^\$\$ ?\(([\w:-]+)\)", lambda m: f"\\tag{{{numbers[m[1]].strip('()')}}}\n$$"),
        (r"\{[\w:]+\}`([^`<]+?)\s*<[^>`]+>`", r"\1"),  # any other role with a title: the title
        (r"\{(?:numref|eq|ref)\}`([^`]+)`", lambda m: numbers.get(m[1], f"*{m[1]}*")),
        (r"\{py:\w+\}`~?([^`]+)`", r"`\1`"),
        (r"(\]\([\w./-]+)\.md(#[\w-]+)?\)", lambda m: f"{m[1]}.ipynb{m[2] or ''})"),
        (r"^\([\w:-]+\)=\n", ""),
    ):
        text = re.sub(pattern, replacement, text, flags=re.M)
    return text


def chapters(book: Path = BOOK) -> list[Path]:
    """The sources that have a kernel, and so a notebook."""
    return [path for path in sorted(book.glob("*.md")) if "\nkernelspec:" in path.read_text("utf-8")[:1000]]


def main() -> int:
    """Bring the notebooks in step, or say which are not."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a notebook is stale")
    check = parser.parse_args().check
    stale, url = [], address()
    for source in chapters():
        target, text = source.with_suffix(".ipynb"), convert(source, url)
        if not target.exists() or target.read_text("utf-8") != text:
            stale.append(target)
            if not check:
                target.write_text(text, "utf-8")
    for path in stale:
        print(("stale: " if check else "wrote ") + path.relative_to(BOOK.parent).as_posix())
    if check and stale:
        print("mend: make notebooks", file=sys.stderr)
    return int(check and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
