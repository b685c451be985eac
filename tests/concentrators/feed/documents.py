"""Documents of the feed against their schemas."""

from functools import cache
from pathlib import Path
from typing import Any

from lxml import etree

_HERE = Path(__file__).parent / "schemas"
_OURS = Path(__file__).parents[3] / "docs" / "schemas"
_GREEN_BUTTON = b"""<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">
    <xs:import namespace="http://www.w3.org/2005/Atom" schemaLocation="atom.xsd"/>
    <xs:import namespace="http://naesb.org/espi" schemaLocation="espi.xsd"/>
</xs:schema>"""
MESSAGE_2011, MESSAGE_2009 = "Message-2011.xsd", "Message-2009.xsd"
NORDIC = "urn-ediel-org-measure-notifyvalidatedmeasuredata-0-1.xsd"
GREEN_BUTTON = "green button"
NAMES = {
    "m": "http://iec.ch/TC57/2011/schema/message",
    "r": "http://iec.ch/TC57/2011/MeterReadings#",
    "e": "http://iec.ch/TC57/2011/EndDeviceEvents#",
    "atom": "http://www.w3.org/2005/Atom",
    "espi": "http://naesb.org/espi",
    "cim": "urn:ediel.org:measure:notifyvalidatedmeasuredata:0:1",
}


@cache
def _schema(name: str) -> Any:
    if name == GREEN_BUTTON:
        return etree.XMLSchema(etree.fromstring(_GREEN_BUTTON, base_url=str(_HERE / "both.xsd")))
    return etree.XMLSchema(etree.parse(str((_OURS if name.startswith("Message") else _HERE) / name)))


def valid(octets: bytes, schema: str) -> Any:
    """Parse a document that has to be valid by its schema."""
    document = etree.fromstring(octets)
    _schema(schema).assertValid(document)
    return document


def errors(octets: bytes, schema: str) -> list[str]:
    """What is wrong with a document by its schema."""
    checked = _schema(schema)
    checked.validate(etree.fromstring(octets))
    return [error.message for error in checked.error_log]


def texts(document: Any, path: str) -> list[str]:
    """The texts or attributes at a path."""
    return [getattr(found, "text", found) for found in document.xpath(path, namespaces=NAMES)]
