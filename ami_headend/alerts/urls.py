from django.urls import path

from ami_headend.alerts import api

urlpatterns = [path("alerts", api.AlertList.as_view(), name="alerts")]
