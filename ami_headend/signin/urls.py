from django.urls import path

from ami_headend.signin import step_up, views

urlpatterns = [
    path("second-factor/", views.SecondFactorView.as_view(), name="second-factor"),
    path("set-up/", views.SetUpView.as_view(), name="second-factor-set-up"),
    path("confirm/", step_up.StepUpView.as_view(), name="step-up"),
]
