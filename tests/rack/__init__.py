"""The rack: the hosts of a deployment in one machine, as network namespaces, and what must hold whatever fails there.

``make rack`` runs it. It is beside the suite: it needs root, Linux, etcd, HAProxy and Patroni.
"""
