"""Push profiles: what the data notifications of DLMS meters mean, by definitions that people register (docs/dlms.md).

``definition`` parses a definition (which element is which register), and ``profiles`` reads a notification by it. Both
are pure; ``meters.readings.push_profiles`` stores the definitions.
"""
