"""The door for meters that push DLMS over TCP: what comes is cut into notifications, gathered, and received."""
