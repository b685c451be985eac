"""Formats of the feed that others have standardised: IEC 61968-9, Green Button, and the Nordic document. Pure."""
