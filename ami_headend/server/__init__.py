"""The web server: waitress with deadlines, pools of threads by what is asked for, and processes that are restarted.

No client can hold a thread: requests are read whole, and answers given, by the loop of each process, between any
number of connections. Threads only compute. docs/adr/0022-web-server.md says why.
"""
