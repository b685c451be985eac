from django.urls import path

from ami_headend.console import views

urlpatterns = [
    path("", views.status, name="status"),
    path("status/live/", views.live, name="status-live"),
]
