from django.urls import path

from meters import api, key_api, place_api

# The list of meters is served by concentrators.meter_api, which knows where each belongs.
urlpatterns = [
    path("meters/<str:system_title>", api.MeterDetail.as_view(), name="meter"),
    path("meters/<str:system_title>/gaps", api.MeterGaps.as_view(), name="meter-gaps"),
    path("readings", api.ReadingList.as_view(), name="readings"),
    path("places", place_api.PlaceList.as_view(), name="places"),
    path("keys", key_api.KeyList.as_view(), name="keys"),
    path("events", api.EventList.as_view(), name="events"),
    path("places/<int:pk>", place_api.PlaceDetail.as_view(), name="place"),
]
