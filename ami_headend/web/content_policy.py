"""What a browser may load and run on our pages (Content-Security-Policy), for each kind of page."""

from csp.constants import NONE, SELF, UNSAFE_EVAL, UNSAFE_INLINE
from csp.middleware import CSPMiddleware, PolicyParts
from django.http import HttpRequest
from django.http.response import HttpResponseBase

API_DOCS = "/api/docs/"
_DATA = ("/api/", "/health/")

# The console. Alpine.js, on which unfold is built, evaluates the expressions in its attributes: 'unsafe-eval'.
# Otherwise nothing inside a page is run or applied except style attributes, with which unfold's components size
# themselves.
CONSOLE = {
    "default-src": [NONE],
    "script-src": [SELF, UNSAFE_EVAL],
    "style-src": [SELF],
    "style-src-attr": [UNSAFE_INLINE],
    "img-src": [SELF, "data:"],
    "font-src": [SELF],
    "connect-src": [SELF],
    "manifest-src": [SELF],
    "form-action": [SELF],
    "frame-ancestors": [NONE],
    "base-uri": [NONE],
}
_DOCS = {**CONSOLE, "script-src": [SELF], "style-src": [SELF, UNSAFE_INLINE], "form-action": [NONE]}
_NOTHING = {"default-src": [NONE], "frame-ancestors": [NONE], "form-action": [NONE], "base-uri": [NONE]}


class ContentPolicy(CSPMiddleware):
    """Middleware: CONTENT_SECURITY_POLICY for the console; nothing is allowed for data, which is no page."""

    def get_policy_parts(
        self, request: HttpRequest, response: HttpResponseBase, report_only: bool = False
    ) -> PolicyParts:
        parts = super().get_policy_parts(request, response, report_only)
        if not report_only and parts.config is None and request.path_info.startswith(_DATA):
            parts.config = _DOCS if request.path_info.startswith(API_DOCS) else _NOTHING
        return parts
