"""The web server: waitress with deadlines, a pool of threads for each class of requests, and supervised processes.

No client can hold up a thread: the loop of each process reads requests whole and sends answers, for any number of
connections. Threads only compute. docs/adr/0022-web-server.md says why.

``supervisor`` runs the processes, which share the ``listening_socket``; ``loop`` accepts connections, ``channel`` is
one of them, and ``request_classes`` chooses the pool and the longest body of a request.
"""
