"""Push profiles: what the data notifications of DLMS meters say, by definitions that people register (docs/dlms.md)."""
