"""Write the notebook beside every chapter: book/x.md, the MyST source, gives book/x.ipynb, for Colab and editors.

    python scripts/notebooks.py          write those that differ
    python scripts/notebooks.py --check  write nothing; name the stale ones and exit 1

A notebook carries no outputs, and its cell ids come from the cells' own text, so that the same source always
gives the same bytes and an inserted cell does not rename the others. MyST's roles and directives, which only the
book understands, become plain Markdown. A chapter's first code cell installs rmlab where it is missing (Colab);
its tag `remove-cell` keeps it off the page, so nothing needs to be added here.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from pathlib import Path

import jupytext
import nbformat

BOOK = Path(__file__).resolve().parent.parent / "book"

ROLES = [  # (pattern, replacement), in this order
    (r"\{doc\}`([^`<]+?)\s*<([^>`]+)>`", r"[\1](\2.ipynb)"),
    (r"\{doc\}`([^`<]+)`", r"[\1](\1.ipynb)"),
    (r"\{(?:cite|cite:p)\}`([^`]+)`", r"(\1)"),
    (r"\{cite:t\}`([^`]+)`", r"\1"),
    (r"\{(?:eq|math:numref)\}`([^`]+)`", r"(\1)"),
    (r"\{[\w:]+\}`([^`<]+?)\s*<[^>`]+>`", r"\1"),  # any other role with a title: the title
    (r"\{(?:numref|ref)\}`([^`]+)`", r"*\1*"),
    (r"\{py:\w+\}`~?([^`]+)`", r"`\1`"),
    (r"(\]\([\w./-]+)\.md(#[\w-]+)?\)", r"\1.ipynb\2)"),
    (r"^\([\w:-]+\)=\n", ""),
]
OPENS = re.compile(r"^(:{3,}|`{3,})\{([\w:-]+)\}[ \t]*(.*)$")
NOTES = {"note", "tip", "warning", "important", "seealso", "hint", "caution", "admonition", "exercise"}


def convert(path: Path) -> str:
    """The notebook of one MyST chapter, as JSON text."""
    notebook = jupytext.read(path)
    notebook.metadata.pop("jupytext", None)
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = plain(cell.source)
        elif cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        again = seen[cell.source] = seen.get(cell.source, -1) + 1
        cell.id = hashlib.sha1(f"{path.name}\n{again}\n{cell.source}".encode()).hexdigest()[:8]
    return nbformat.writes(notebook) + "\n"


def plain(text: str) -> str:
    """MyST Markdown as plain Markdown: roles replaced, directives turned into quotes, details, images or bare text."""
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
    joined = "\n".join(out)
    for pattern, replacement in ROLES:
        joined = re.sub(pattern, replacement, joined, flags=re.M)
    return joined


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
    return "\n\n".join(
        part for part in (f"**{title}**" if re.search("[a-zA-Z]", title) else "", plain(text)) if part
    )


def chapters(book: Path = BOOK) -> list[Path]:
    """The sources that have a kernel, and so a notebook."""
    return [path for path in sorted(book.glob("*.md")) if "\nkernelspec:" in path.read_text("utf-8")[:1000]]


def main() -> int:
    """Bring the notebooks in step, or say which are not."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a notebook is stale")
    check = parser.parse_args().check
    stale = []
    for source in chapters():
        target, text = source.with_suffix(".ipynb"), convert(source)
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
