"""The table of contents. A member is added by its module and its line here. Pure."""

from keyvault.schemes.lines import Table
from meters.contents.events import EVENTS
from meters.contents.lines import Catalogue, Content, Reader
from meters.contents.masked import MASKED
from meters.contents.plain import PLAIN
from meters.contents.push import PUSH
from meters.contents.report import REPORT
from meters.contents.signed import SIGNED

CONTENTS: Table[Content] = Table(PLAIN, EVENTS, REPORT, MASKED, PUSH, SIGNED)


class Readers(dict[str, Reader]):
    """The readers of one catalogue by the names of their contents; each is made at its first use."""

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__()
        self._catalogue = catalogue

    def __missing__(self, content: str) -> Reader:
        reader = self[content] = CONTENTS[content].reader(self._catalogue)
        return reader
