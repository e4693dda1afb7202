"""Pages taken apart, for the tests of reports."""

from collections.abc import Collection
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img"}
SVG_LEAVES = {"circle", "rect", "line", "path", "use", "g"}
# Tags whose text stands apart from what is before it.
CELLS = {"td", "th", "dt", "dd", "p", "li", "br", "h3", "figcaption"}


class Page(HTMLParser):
    """A page taken apart: its tags in order, its text, and tags that were not closed."""

    def __init__(self, text: str, cells: Collection[str] = CELLS) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.wrong: list[str] = []
        self._open: list[str] = []
        self._cells = cells
        self._text: list[str] = []
        self.feed(text)
        self.close()
        self.wrong += self._open
        self.text = " ".join("".join(self._text).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open a tag."""
        names = [name for name, _ in attrs]
        self.wrong += [f"{tag} {name} twice" for name in names if names.count(name) > 1]
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag in self._cells:
            self._text.append(" ")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open and close a tag, which only SVG has."""
        self.handle_starttag(tag, attrs)
        if tag in SVG_LEAVES:
            self._open.pop()
        else:
            self.wrong.append(f"{tag}/")

    def handle_endtag(self, tag: str) -> None:
        """Close the tag that was opened last."""
        if not self._open or self._open.pop() != tag:
            self.wrong.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        """Take what is shown."""
        if "style" not in self._open:
            self._text.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        """Return the attributes of all tags of a name."""
        return [attributes for name, attributes in self.tags if name == tag]

    def values(self, attribute: str) -> list[str]:
        """Return all values of an attribute."""
        return [found[attribute] for _, found in self.tags if attribute in found]
