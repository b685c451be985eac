from django.contrib import admin
from django.urls import path

from bench.rowwise.views import FrameView

urlpatterns = [
    path("frames", FrameView.as_view()),
    path("admin/", admin.site.urls),
]  # middleware looks up the address of the console
