from django.urls import path

from concentrators import api, clock_api, command_api, failure_api, meter_api, resend_api, total_api, wave_api

urlpatterns = [
    path("uplinks", api.UplinksView.as_view(), name="uplinks"),
    path("uplinks/<int:uplink_id>", api.UplinkView.as_view(), name="uplink"),
    path("clock-corrections", clock_api.ClockCorrections.as_view(), name="clock-corrections"),
    path("commands", command_api.CommandsView.as_view(), name="commands"),
    path("commands/<int:number>/receipt", command_api.CommandReceiptView.as_view(), name="command-receipt"),
    path("meters", meter_api.AssignedMeterList.as_view(), name="meters"),
    path("meters/<str:system_title>/commands", command_api.MeterCommands.as_view(), name="meter-commands"),
    path("meters/<str:system_title>/commands/<int:number>", command_api.MeterCommand.as_view(), name="meter-command"),
    path("failures", failure_api.FailureList.as_view(), name="failures"),
    path("resends", resend_api.Resends.as_view(), name="resends"),
    path("rotations", wave_api.WaveList.as_view(), name="rotations"),
    path("rotations/<int:wave_id>", wave_api.WaveDetail.as_view(), name="rotation"),
    path("totals", total_api.TotalList.as_view(), name="totals"),
]
