"""Values in the units that ReadingTypes and Green Button count in. Pure."""

from decimal import Decimal

# Secondary units of SenML (RFC 8798): the base unit, and the power of ten.
_SECONDARY = {
    "kWh": ("Wh", 3),
    "kvarh": ("varh", 3),
    "kVAh": ("VAh", 3),
    "kW": ("W", 3),
    "kvar": ("var", 3),
    "kVA": ("VA", 3),
    "kV": ("V", 3),
    "mV": ("V", -3),
    "mA": ("A", -3),
}


def base_value(value: Decimal, unit: str) -> tuple[Decimal, str]:
    """Return a value in its base unit, and that unit: 1.5 kWh is 1500 Wh. Exact."""
    base, power = _SECONDARY.get(unit, (unit, 0))
    return (value.scaleb(power), base) if power else (value, unit)


def value_text(value: Decimal, unit: str, multiplier: int) -> str:
    """Write a value in 10^``multiplier`` base units, exactly and without an exponent: 112 Wh in kWh is 0.112."""
    return format(base_value(value, unit)[0].scaleb(-multiplier), "f")
