"""Sign-in at an OpenID provider beside passwords, or in their place."""

from ami_headend.settings.environment import env

OIDC_ISSUER = env.str("OIDC_ISSUER", "")  # as the provider writes it in its discovery document; empty: passwords alone
OIDC_CLIENT_ID = env.str("OIDC_CLIENT_ID", "")
OIDC_CLIENT_SECRET = env.str("OIDC_CLIENT_SECRET", "")  # empty: a public client, by PKCE alone
OIDC_SCOPES = env.str("OIDC_SCOPES", "openid profile")
OIDC_NAME = env.str("OIDC_NAME", "single sign-on")  # what people call it
OIDC_ACCOUNT_CLAIM = env.str("OIDC_ACCOUNT_CLAIM", "preferred_username")  # names the account when it is made
OIDC_ROLES_CLAIM = env.str("OIDC_ROLES_CLAIM", "groups")  # a dot leads into an object: realm_access.roles
OIDC_ROLES: dict[str, str] = env.dict("OIDC_ROLES", {})  # value of that claim=role,...
# Values of acr or amr of which the provider must say one for accounts that need a second factor; empty: it is trusted.
OIDC_SECOND_FACTOR: list[str] = env.list("OIDC_SECOND_FACTOR", [])
OIDC_TIMEOUT_S = env.float("OIDC_TIMEOUT_S", 5)  # of each request to the provider
PASSWORD_SIGN_IN = env.bool("PASSWORD_SIGN_IN", True)
BREAK_GLASS_ACCOUNT = env.str("BREAK_GLASS_ACCOUNT", "")  # whose password opens the console if PASSWORD_SIGN_IN is off
