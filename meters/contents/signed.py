"""Content ``signed``: each pack of readings comes in a signature of its meter (docs/schemes.md, signed). Pure.

What a signature encloses is read as ``plain``, once it was verified and its coupon spent (``keyvault.coupons``). What
comes without one is read by the reader here: events alone. Coupon lists are no readings.
"""

from meters.contents.events import EventsReader
from meters.contents.lines import Content
from meters.contents.plain import PLAIN

ENCLOSED = PLAIN.name
SIGNED = Content("signed", EventsReader, reference="COSE_Sign1 around SenML, RFC 9052 section 4.2, RFC 8428 section 6")
