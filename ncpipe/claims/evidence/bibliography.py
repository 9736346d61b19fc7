"""A paper as one cites it, and where papers appear."""

from __future__ import annotations

from dataclasses import dataclass

NEURIPS = ("inproceedings", "booktitle", "Advances in Neural Information Processing Systems")
ICML = ("inproceedings", "booktitle", "International Conference on Machine Learning")
ICLR = ("inproceedings", "booktitle", "International Conference on Learning Representations")
PNAS = ("article", "journal", "Proceedings of the National Academy of Sciences")


@dataclass(frozen=True)
class Reference:
    """A paper."""

    short: str
    """As text names it: 'Tirer & Bruna 2022'."""
    authors: tuple[str, ...]
    """'Last, First'"""
    title: str
    venue: tuple[str, str, str]
    """BibTeX's type of entry, the field of the venue, and the venue."""
    year: int
    more: tuple[tuple[str, str], ...] = ()
    """Further fields."""

    def bibtex(self, key: str) -> str:
        """The BibTeX entry under this key."""
        kind, field, venue = self.venue
        fields = {"title": f"{{{self.title}}}", "author": " and ".join(self.authors), field: venue}
        fields |= {"year": str(self.year), **dict(self.more)}
        width = max(map(len, fields))
        lines = [f"  {name:{width}} = {{{value}}}" for name, value in fields.items()]
        return f"@{kind}{{{key},\n" + ",\n".join(lines) + "\n}"
