"""What code keys follow."""

from __future__ import annotations


class Lookup(dict):
    """A table that code keys do not follow: who looks an entry up adds that entry's code."""
