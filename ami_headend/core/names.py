"""Names as people give them: invisible characters do not make two names different.

Padding, and zero width spaces copied from a document, are removed from a name. Capitals, the kind of a dash, and
Unicode's compatibility forms (full width letters, ligatures) are stored as given but ignored in comparisons (``alike``,
in PostgreSQL ``Alike``).
"""

import re
import unicodedata
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.expressions import Combinable

_SPACES = re.compile(r"\s+")
# Invisible, though not in Unicode's category of formatting characters (Cf): fillers and variation selectors.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)
_DASHES = "\u2010\u2012\u2013\u2014\u2015\u2212"  # after NFKC, which turns the non-breaking hyphen into U+2010
_UNPRINTABLE = {"Cc", "Cs", "Co", "Cn"}


class UnreadableNameError(ValueError):
    """A name that nobody can read or type; the message says which character is at fault."""


def tidy(text: str) -> str:
    """Return the name as people see it: single spaces, none at the ends, nothing invisible, in Unicode's NFC."""
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip()
    visible = "".join(char for char in unicodedata.normalize("NFC", text) if unicodedata.category(char) != "Cf")
    return _SPACES.sub(" ", _INVISIBLE.sub("", visible)).strip()


def alike(text: str) -> str:
    """Return the form under which names are compared: NFKC, one kind of dash, small letters.

    Letters are lowered one by one, as PostgreSQL does: a final sigma becomes a sigma, and no text grows longer.
    """
    folded = unicodedata.normalize("NFKC", tidy(text)).translate(_TO_HYPHEN)
    return "".join(char.lower()[:1] for char in folded)


_TO_HYPHEN = str.maketrans(_DASHES, "-" * len(_DASHES))


class Alike(models.Func):
    """``alike`` of a column of tidied names, computed by PostgreSQL; unique indexes of names are built on it."""

    output_field = models.TextField()
    template = f"lower(translate(normalize(%(expressions)s, NFKC), '{_DASHES}', '{'-' * len(_DASHES)}'))"


def check(text: str) -> str:
    """Return the tidied text; UnreadableNameError if it holds control characters or lone surrogates."""
    tidied = tidy(text)
    for char in tidied:
        if unicodedata.category(char) in _UNPRINTABLE:
            raise UnreadableNameError(f"it holds a character that cannot be shown (U+{ord(char):04X})")
    return tidied


def validate(text: str) -> None:
    """ValidationError if ``check`` refuses the text or it has no visible character. Serializers inherit this
    validator.
    """
    try:
        tidied = check(text)
    except UnreadableNameError as error:
        raise ValidationError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from None
    if not tidied:
        raise ValidationError("It has no visible character.")


if TYPE_CHECKING:  # Django's fields are not generic at run time
    _TextField = models.CharField[str | Combinable, str]
else:
    _TextField = models.CharField


class NameField(_TextField):
    """Text that names something; it is tidied when it is stored and when it is looked for."""

    default_validators = [validate]

    def to_python(self, value: Any) -> Any:
        """Return the tidied name; ValidationError if ``check`` refuses it."""
        text = super().to_python(value)
        if not isinstance(text, str):
            return text
        try:
            return check(text)
        except UnreadableNameError as error:
            raise ValidationError(f"{self.verbose_name}: {error}.") from None

    def get_prep_value(self, value: Any) -> Any:
        """Tidy a value that is looked for. A text that cannot be a name is no error: it finds nothing."""
        return tidy(value) if isinstance(value, str) else super().get_prep_value(value)

    def get_db_prep_save(self, value: Any, connection: BaseDatabaseWrapper) -> Any:
        """Tidy a value that is written; ValidationError if ``check`` refuses it."""
        return super().get_db_prep_save(self.to_python(value) if isinstance(value, str) else value, connection)

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        value = super().pre_save(model_instance, add)
        if isinstance(value, str) and (tidied := tidy(value)) != value:
            setattr(model_instance, self.attname, tidied)
            return tidied
        return value
