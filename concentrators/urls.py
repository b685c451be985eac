from django.urls import path

from concentrators.api import (
    clock,
    commands,
    failures,
    gap_recovery,
    hop,
    masked_totals,
    meters,
    rollouts,
    totals,
    uplinks,
)

urlpatterns = [
    path("uplinks", uplinks.UplinksView.as_view(), name="uplinks"),
    path("uplinks/<int:uplink_id>", uplinks.UplinkView.as_view(), name="uplink"),
    path("clock-corrections", clock.ClockCorrections.as_view(), name="clock-corrections"),
    path("commands", commands.CommandsView.as_view(), name="commands"),
    path("commands/<int:number>/receipt", commands.CommandReceiptView.as_view(), name="command-receipt"),
    path("meters", meters.AssignedMeterList.as_view(), name="meters"),
    path("meters/<str:system_title>/commands", commands.MeterCommands.as_view(), name="meter-commands"),
    path("meters/<str:system_title>/commands/<int:number>", commands.MeterCommand.as_view(), name="meter-command"),
    path("failures", failures.FailureList.as_view(), name="failures"),
    path("resends", gap_recovery.Resends.as_view(), name="resends"),
    path("rotations", rollouts.WaveList.as_view(), name="rotations"),
    path("rotations/<int:wave_id>", rollouts.WaveDetail.as_view(), name="rotation"),
    path("failures/hop", hop.HopFailureList.as_view(), name="reported-hop-failures"),
    path("hop-keys", hop.HopKeysView.as_view(), name="hop-keys"),
    path("next-key", hop.NextKeyView.as_view(), name="next-key"),
    path("hop-failures", hop.HopFailuresView.as_view(), name="hop-failures"),
    path("masked-totals", masked_totals.MaskedTotalList.as_view(), name="masked-totals"),
    path("masked-totals/<int:set_id>/answers", masked_totals.MaskedTotalAnswers.as_view(), name="masked-total-answers"),
    path("totals", totals.TotalList.as_view(), name="totals"),
]
