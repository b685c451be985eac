from django.urls import path

from meters.api import codes, enrolment, keys, mask_groups, meters, places, push_profiles, signatures

# The list of meters is served by concentrators.api.meters, which knows where each belongs.
urlpatterns = [
    path("meters/<str:system_title>", meters.MeterDetail.as_view(), name="meter"),
    path("meters/<str:system_title>/gaps", meters.MeterGaps.as_view(), name="meter-gaps"),
    path("meters/<str:system_title>/signatures", signatures.MeterSignatures.as_view(), name="meter-signatures"),
    path("mask-groups", mask_groups.MaskGroups.as_view(), name="mask-groups"),
    path("readings", meters.ReadingList.as_view(), name="readings"),
    path("places", places.PlaceList.as_view(), name="places"),
    path("keys", keys.KeyList.as_view(), name="keys"),
    path("keys/<int:number>/retirement", keys.KeyRetirement.as_view(), name="key-retirement"),
    path("agreement-keys", keys.AgreementKeyList.as_view(), name="agreement-keys"),
    path("authorities", enrolment.AuthorityList.as_view(), name="authorities"),
    path("certificates", enrolment.CertificateList.as_view(), name="certificates"),
    path("revocations", enrolment.RevocationList.as_view(), name="revocations"),
    path("awaited-enrolments", enrolment.AwaitedList.as_view(), name="awaited-enrolments"),
    path("push-profiles", push_profiles.PushProfileList.as_view(), name="push-profiles"),
    path(
        "push-profiles/<int:number>/retirement",
        push_profiles.PushProfileRetirement.as_view(),
        name="push-profile-retirement",
    ),
    path("events", meters.EventList.as_view(), name="events"),
    path("codes", codes.CodeList.as_view(), name="codes"),
    path("places/<int:pk>", places.PlaceDetail.as_view(), name="place"),
]
