"""Text of others on one line: a name with a line break forges no line of a log, and turns no terminal around."""


def one_line(text: str) -> str:
    """The text with every character that does not print written out: ``\\n``, ``\\x1b``, ``\\u2028``, ``\\u202e``.

    What prints stays as it is, in any script; a backslash stays a backslash.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
