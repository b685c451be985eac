from django.urls import path

from ami_headend.signin import single_sign_on, step_up, views

urlpatterns = [
    path("second-factor/", views.SecondFactorView.as_view(), name="second-factor"),
    path("set-up/", views.SetUpView.as_view(), name="second-factor-set-up"),
    path("provider/", single_sign_on.ToProviderView.as_view(), name="single-sign-on"),
    path("provider/answer/", single_sign_on.FromProviderView.as_view(), name="single-sign-on-answer"),
    path("provider/logout/", single_sign_on.LogoutView.as_view(), name="single-sign-on-logout"),
    path("confirm/", step_up.StepUpView.as_view(), name="step-up"),
]
