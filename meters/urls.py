from django.urls import path

from meters import api

urlpatterns = [
    path("meters", api.MeterList.as_view(), name="meters"),
    path("meters/<str:system_title>", api.MeterDetail.as_view(), name="meter"),
    path("meters/<str:system_title>/gaps", api.MeterGaps.as_view(), name="meter-gaps"),
    path("readings", api.ReadingList.as_view(), name="readings"),
    path("events", api.EventList.as_view(), name="events"),
]
