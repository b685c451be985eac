"""The operator pages: name, look and navigation."""

from collections.abc import Callable

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse_lazy


def _static(name: str) -> Callable[[HttpRequest], str]:
    """Return the address of a static file, below URL_PREFIX."""
    return lambda request: static(name)


UNFOLD = {
    "SITE_TITLE": "ami-headend",
    "SITE_HEADER": "ami-headend",
    "SITE_SUBHEADER": "smart metering head-end",
    "SITE_SYMBOL": "electric_meter",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": _static("console/icon.svg")}],
    "STYLES": [_static("console/console.css")],
    "SCRIPTS": [_static(f"console/{name}.js") for name in ("zone", "live", "keyboard")],
    "SITE_URL": None,
    "SHOW_VIEW_ON_SITE": False,
    "SHOW_HISTORY": True,
    "SIDEBAR": {"command_search": True, "navigation": "ami_headend.console.navigation.sidebar"},
    "COMMAND": {"search_callback": "ami_headend.console.search.search"},
    "ACCOUNT": {
        "navigation": [
            {"title": "Sign-in and second factor", "link": reverse_lazy("admin:sign-in")},
            {"title": "Change password", "link": reverse_lazy("admin:password_change")},
        ]
    },
    "COLORS": {
        "primary": {
            "50": "oklch(97% .014 254.604)",
            "100": "oklch(93.2% .032 255.585)",
            "200": "oklch(88.2% .059 254.128)",
            "300": "oklch(80.9% .105 251.813)",
            "400": "oklch(70.7% .165 254.624)",
            "500": "oklch(62.3% .214 259.815)",
            "600": "oklch(54.6% .245 262.881)",
            "700": "oklch(48.8% .243 264.376)",
            "800": "oklch(42.4% .199 265.638)",
            "900": "oklch(37.9% .146 265.522)",
            "950": "oklch(28.2% .091 267.935)",
        },
    },
}
