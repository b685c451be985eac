from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularSwaggerSplitView

from ami_headend.api.schema import SchemaView
from ami_headend.health import probes
from ami_headend.metrics.views import metrics

admin.autodiscover()  # here, for commands, workers and schedule need no page

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("sign-in/", include("ami_headend.signin.urls")),
    path("metrics", metrics, name="metrics"),
    path("health/live", probes.live, name="live"),
    path("health/ready", probes.ready, name="ready"),
    path("admin/", admin.site.urls),
    path("api/v1/", include("concentrators.urls")),
    path("api/v1/", include("meters.urls")),
    path("api/v1/", include("ami_headend.alerts.urls")),
    path("api/v1/", include("ami_headend.api_tokens.urls")),
    path("api/schema/", SchemaView.as_view(), name="schema"),
    path("api/docs/", SpectacularSwaggerSplitView.as_view(url_name="schema"), name="docs"),
]

handler400 = "ami_headend.web.problems.bad_request"
handler403 = "ami_headend.web.problems.permission_denied"
handler404 = "ami_headend.web.problems.not_found"
handler500 = "ami_headend.web.problems.server_error"
