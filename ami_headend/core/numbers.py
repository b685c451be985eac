"""Numbers of rows as they come in addresses and forms."""

_DIGITS = 18  # whatever they are, a bigint holds them; and int() takes no time over thousands of them


def row_number(text: str) -> int | None:
    """The number that a text writes in plain digits; None where it writes none that a row can have."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else None


def row_numbers(texts: "list[str]") -> list[int]:
    """The numbers among texts."""
    return [number for number in map(row_number, texts) if number is not None]
