from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularSwaggerSplitView

from ami_headend import health
from ami_headend.metrics.views import metrics
from ami_headend.schema import SchemaView

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("sign-in/", include("ami_headend.signin.urls")),
    path("metrics", metrics, name="metrics"),
    path("health/live", health.live, name="live"),
    path("health/ready", health.ready, name="ready"),
    path("admin/", admin.site.urls),
    path("api/v1/", include("concentrators.urls")),
    path("api/v1/", include("meters.urls")),
    path("api/v1/", include("ami_headend.alerts.urls")),
    path("api/schema/", SchemaView.as_view(), name="schema"),
    path("api/docs/", SpectacularSwaggerSplitView.as_view(url_name="schema"), name="docs"),
]

handler400 = "ami_headend.problems.bad_request"
handler403 = "ami_headend.problems.permission_denied"
handler404 = "ami_headend.problems.not_found"
handler500 = "ami_headend.problems.server_error"
