from django.urls import path

from concentrators import api, total_api

urlpatterns = [
    path("uplinks", api.UplinksView.as_view(), name="uplinks"),
    path("uplinks/<int:uplink_id>", api.UplinkView.as_view(), name="uplink"),
    path("totals", total_api.TotalList.as_view(), name="totals"),
]
