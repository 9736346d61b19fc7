"""The page of an index: README, whose links lead to `project.urls.Source`, or are plain words while there is none."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
LINK = re.compile(r"(!?)\[([^\[\]]*)\]\((?!https?:|#)([^()]+)\)")


def index_page(readme: str, home: str | None) -> str:
    """README with absolute links to `home`, a repository of the kind of GitHub's; without one its words alone."""

    def absolute(link: re.Match[str]) -> str:
        picture, words, path = link.groups()
        if home:
            return f"{picture}[{words}]({home}/{'raw' if picture else 'blob'}/HEAD/{path})"
        return "" if picture else words

    return LINK.sub(absolute, readme)


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    setup(
        long_description=index_page(readme, project.get("urls", {}).get("Source")),
        long_description_content_type="text/markdown",
    )
