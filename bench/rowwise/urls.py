from django.urls import path

from bench.rowwise.views import FrameView

urlpatterns = [path("frames", FrameView.as_view())]
