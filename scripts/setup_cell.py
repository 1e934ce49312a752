"""A notebook's first code cell: is rmlab here, and is it this one? It installs or says how to.

Another project on the package index is imported as `rmlab` too. The cell does not import what it finds: it looks for
a file that only ours has.
"""

from __future__ import annotations

CELL = """\
# is rmlab installed, and is it this one? The package index has another of that name
from importlib.util import find_spec
from pathlib import Path

found = find_spec("rmlab")
places = found and (found.submodule_search_locations or [found.origin])
{absent}
elif not any((Path(place) / "show" / "rows.py").is_file() for place in places):
    raise ImportError(
        f"the rmlab in {{list(places)}} is another project. Remove it: "
        "%pip uninstall -y rmlab. Then install this one: "
{install}
        "Then restart the kernel."
    )"""

BY_HAND = """\
        "%pip install '.[notebooks]' in a checkout's folder, or "
        "%pip install 'PATH/rmlab_ensembles-VERSION-py3-none-any.whl[notebooks]'. \""""

MISSING = f"""\
if found is None:
    raise ImportError(
        "rmlab is not installed: "
{BY_HAND}
        "Then run this cell again."
    )"""


def source(url: str) -> str:
    """The cell's code, for the published address or, while that is "", for a checkout or a wheel."""
    if not url:
        return CELL.format(absent=MISSING, install=BY_HAND)
    package = f'package = "rmlab-ensembles[notebooks] @ git+{url}"\n'
    absent = (
        'if found is None:  # what is there already, such as torch, stays\n    %pip -q install "{package}"'
    )
    return CELL.format(absent=package + absent, install="""        f"%pip install '{package}'. \"""")
