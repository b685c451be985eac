from django.urls import path

from ami_headend.signin import views

urlpatterns = [
    path("second-factor/", views.SecondFactorView.as_view(), name="second-factor"),
    path("set-up/", views.SetUpView.as_view(), name="second-factor-set-up"),
]
