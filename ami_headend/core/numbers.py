"""Row numbers as they come in addresses and forms."""

_DIGITS = 18  # any such number fits a bigint, and int() never has to parse thousands of digits


def row_number(text: str) -> int | None:
    """Return the number written in plain digits; None if the text is not a possible row number."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else None


def row_numbers(texts: "list[str]") -> list[int]:
    """Return the row numbers among the texts."""
    return [number for number in map(row_number, texts) if number is not None]
