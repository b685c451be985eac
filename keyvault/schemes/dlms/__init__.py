"""DLMS/COSEM: the ciphered push APDUs of IEC 62056-5-3, as meters in the field send them. Pure (docs/dlms.md)."""
