"""The papers whose claims are decided, as one cites them."""

from __future__ import annotations

from dataclasses import dataclass

from ncpipe.study.config import Paper

NEURIPS = ("inproceedings", "booktitle", "Advances in Neural Information Processing Systems")
ICML = ("inproceedings", "booktitle", "International Conference on Machine Learning")
ICLR = ("inproceedings", "booktitle", "International Conference on Learning Representations")
PNAS = ("article", "journal", "Proceedings of the National Academy of Sciences")
ARXIV = ("misc", "eprint", "2503.06385")


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


BIBLIOGRAPHY: dict[Paper, Reference] = {
    "tirer2022": Reference(
        "Tirer & Bruna 2022",
        ("Tirer, Tom", "Bruna, Joan"),
        "Extended Unconstrained Features Model for Exploring Deep Neural Collapse",
        ICML,
        2022,
    ),
    "sukenik2023": Reference(
        "Súkeník, Mondelli & Lampert 2023",
        ("Súkeník, Peter", "Mondelli, Marco", "Lampert, Christoph H."),
        "Deep Neural Collapse Is Provably Optimal for the Deep Unconstrained Features Model",
        NEURIPS,
        2023,
    ),
    "han2022": Reference(
        "Han, Papyan & Donoho 2022",
        ("Han, X. Y.", "Papyan, Vardan", "Donoho, David L."),
        "Neural Collapse Under MSE Loss: Proximity to and Dynamics on the Central Path",
        ICLR,
        2022,
    ),
    "papyan2020": Reference(
        "Papyan, Han & Donoho 2020",
        ("Papyan, Vardan", "Han, X. Y.", "Donoho, David L."),
        "Prevalence of neural collapse during the terminal phase of deep learning training",
        PNAS,
        2020,
        (("volume", "117"), ("number", "40"), ("pages", "24652--24663")),
    ),
    "zhou2022": Reference(
        "Zhou et al. 2022",
        ("Zhou, Jinxin", "You, Chong", "Li, Xiao", "Liu, Kangning", "Liu, Sheng", "Qu, Qing", "Zhu, Zhihui"),
        "Are All Losses Created Equal: A Neural Collapse Perspective",
        NEURIPS,
        2022,
    ),
    "rangamani2023": Reference(
        "Rangamani et al. 2023",
        ("Rangamani, Akshay", "Lindegaard, Marius", "Galanti, Tomer", "Poggio, Tomaso A."),
        "Feature learning in deep classifiers through Intermediate Neural Collapse",
        ICML,
        2023,
    ),
    "yaras2022": Reference(
        "Yaras et al. 2022",
        ("Yaras, Can", "Wang, Peng", "Zhu, Zhihui", "Balzano, Laura", "Qu, Qing"),
        "Neural Collapse with Normalized Features: A Geometric Analysis over the Riemannian Manifold",
        NEURIPS,
        2022,
    ),
    "li2024": Reference(
        "Li et al. 2024",
        ("Li, Pengyu", "Li, Xiao", "Wang, Yutong", "Qu, Qing"),
        "Neural Collapse in Multi-label Learning with Pick-all-label Loss",
        ICML,
        2024,
    ),
    "harun2025": Reference(
        "Harun & Kanan 2025",
        ("Harun, Md Yousuf", "Kanan, Christopher"),
        "A Good Start Matters: Enhancing Continual Learning with Data-Driven Weight Initialization",
        ARXIV,
        2025,
        (("archiveprefix", "arXiv"),),
    ),
}
"""By the paper's key in the config."""
