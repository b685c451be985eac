"""The rights over keys, as permissions of Django; none includes another.

``ami_headend.signin.roles`` says which role has which.
"""

SEE_KEYS = "keyvault.view_devicekey"  # what is known of keys, never their octets
PROVISION = "keyvault.provision_devicekey"
ROTATE_DEVICE_KEYS = "keyvault.rotate_devicekey"
COMPROMISE = "keyvault.compromise_devicekey"
EXPORT_KEYS = "keyvault.export_devicekey"
ROTATE_MASTER_KEY = "keyvault.rotate_masterkey"
DESTROY_MASTER_KEY = "keyvault.destroy_masterkey"
SEE_APPROVALS = "keyvault.view_approval"
DECIDE_APPROVALS = "keyvault.decide_approval"
SEE_AUDIT = "keyvault.view_auditrecord"
EXPORT_AUDIT = "keyvault.export_auditrecord"
