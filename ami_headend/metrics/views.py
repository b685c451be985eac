"""GET /metrics: for Prometheus with its token, or a signed-in person who may see uplinks."""

import hmac

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client.exposition import choose_encoder

from ami_headend.core import bearer
from ami_headend.metrics.collector import registry
from ami_headend.web.problems import problem


@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Return the metrics in Prometheus' text format or OpenMetrics, as requested."""
    if not _may_see(request):
        detail = "Metrics need METRICS_TOKEN as a bearer token, or a signed-in account that may see uplinks."
        return problem(request, 401, detail, headers={"WWW-Authenticate": 'Bearer realm="metrics"'})
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encode(registry()), content_type=content_type)


def has_token(request: HttpRequest) -> bool:
    """Whether the request carries METRICS_TOKEN."""
    token = bearer.given(request.headers)
    expected = settings.METRICS_TOKEN.encode()
    return bool(expected) and token is not None and hmac.compare_digest(token.encode(), expected)


def _may_see(request: HttpRequest) -> bool:
    return has_token(request) or (request.user.is_staff and request.user.has_perm("concentrators.view_uplink"))
