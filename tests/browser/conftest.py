"""The page that widgets are shown on, for the browser's checks too."""

from tests.show.conftest import show, tab

__all__ = ["show", "tab"]
