"""Names as people give them: what cannot be seen does not tell two of them apart.

A name that was padded, or copied from a document with a zero width space in it, is the name that people see. What is
told apart only by capitals, by the kind of a dash or by Unicode's compatibility forms (full width letters, ligatures)
is written as it came and compared as one (``alike``, in PostgreSQL ``Alike``).
"""

import re
import unicodedata
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.expressions import Combinable

_SPACES = re.compile(r"\s+")
# Shown as nothing, though not of Unicode's category of formatting characters (Cf): fillers and variation selectors.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)
_DASHES = "\u2010\u2012\u2013\u2014\u2015\u2212"  # as NFKC leaves them; the non-breaking hyphen is U+2010 there
_UNPRINTABLE = {"Cc", "Cs", "Co", "Cn"}


class UnreadableNameError(ValueError):
    """A name that nobody can read or type; the message says which character is wrong."""


def tidy(text: str) -> str:
    """The name that people see: one space between words and none around them, nothing invisible, in Unicode's NFC."""
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip()
    visible = "".join(char for char in unicodedata.normalize("NFC", text) if unicodedata.category(char) != "Cf")
    return _SPACES.sub(" ", _INVISIBLE.sub("", visible)).strip()


def alike(text: str) -> str:
    """What two names have in common that people cannot tell apart: NFKC, one kind of dash, small letters.

    Small letters one by one, as PostgreSQL has them: a final sigma is a sigma, and nothing grows longer.
    """
    folded = unicodedata.normalize("NFKC", tidy(text)).translate(_TO_HYPHEN)
    return "".join(char.lower()[:1] for char in folded)


_TO_HYPHEN = str.maketrans(_DASHES, "-" * len(_DASHES))


class Alike(models.Func):
    """``alike`` of a column of tidied names, by PostgreSQL; what unique indexes of names are over."""

    output_field = models.TextField()
    template = f"lower(translate(normalize(%(expressions)s, NFKC), '{_DASHES}', '{'-' * len(_DASHES)}'))"


def check(text: str) -> str:
    """The same, tidied; UnreadableNameError where it holds control characters or half a character."""
    tidied = tidy(text)
    for char in tidied:
        if unicodedata.category(char) in _UNPRINTABLE:
            raise UnreadableNameError(f"it holds a character that cannot be shown (U+{ord(char):04X})")
    return tidied


def validate(text: str) -> None:
    """ValidationError where ``check`` refuses it or nothing is seen of it. Serializers take it from the model field."""
    try:
        tidied = check(text)
    except UnreadableNameError as error:
        raise ValidationError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from None
    if not tidied:
        raise ValidationError("It holds nothing that can be seen.")


if TYPE_CHECKING:  # Django's fields take no types when they run
    _TextField = models.CharField[str | Combinable, str]
else:
    _TextField = models.CharField


class NameField(_TextField):
    """Text that names something: tidied at every door, in what is looked for as in what is stored."""

    default_validators = [validate]

    def to_python(self, value: Any) -> Any:
        """The tidied name; ValidationError where ``check`` refuses it."""
        text = super().to_python(value)
        if not isinstance(text, str):
            return text
        try:
            return check(text)
        except UnreadableNameError as error:
            raise ValidationError(f"{self.verbose_name}: {error}.") from None

    def get_prep_value(self, value: Any) -> Any:
        """Of what is looked for, too: a text that no name can be is no error there, it finds nothing."""
        return tidy(value) if isinstance(value, str) else super().get_prep_value(value)

    def get_db_prep_save(self, value: Any, connection: BaseDatabaseWrapper) -> Any:
        """Of what is written; ValidationError where ``check`` refuses it."""
        return super().get_db_prep_save(self.to_python(value) if isinstance(value, str) else value, connection)

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        value = super().pre_save(model_instance, add)
        if isinstance(value, str) and (tidied := tidy(value)) != value:
            setattr(model_instance, self.attname, tidied)
            return tidied
        return value
