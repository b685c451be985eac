from django.urls import path

from ami_headend.api_tokens import api

urlpatterns = [
    path("tokens", api.TokenList.as_view(), name="api-tokens"),
    path("tokens/<int:number>", api.TokenDetail.as_view(), name="api-token"),
    path("tokens/<int:number>/rotation", api.TokenRotation.as_view(), name="api-token-rotation"),
]
