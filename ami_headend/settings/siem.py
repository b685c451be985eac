"""Security events for a SIEM."""

from ami_headend.settings.environment import env

SIEM_URL = env.str("SIEM_URL", "")  # syslog+tls://siem.example:6514; empty: nothing is sent, nor noted
SIEM_FORMAT = env.str("SIEM_FORMAT", "rfc5424")  # or cef
SIEM_CA_FILE = env.str("SIEM_CA_FILE", "")  # the authority of the receiver; empty: those that the system trusts
SIEM_CERTIFICATE_FILE = env.str("SIEM_CERTIFICATE_FILE", "")  # ours, if the receiver asks for one
SIEM_KEY_FILE = env.str("SIEM_KEY_FILE", "")
SIEM_ENTERPRISE = env.str("SIEM_ENTERPRISE", "32473")  # private enterprise number of the structured data (RFC 5612)
SIEM_EXCHANGE_S = env.float("SIEM_EXCHANGE_S", 15)  # one batch, from look-up until the receiver has read it
