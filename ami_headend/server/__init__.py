"""The web server: waitress with deadlines, a pool of threads for each kind of request, and supervised processes.

No client can hold up a thread: the loop of each process reads requests whole and sends answers, for any number of
connections. Threads only compute. docs/adr/0022-web-server.md says why.
"""
