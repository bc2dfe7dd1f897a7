"""ZeroMQ, and nothing else knows it.

- `options.py`: every socket option of the mesh, with its reason
- `endpoint.py`: one process's face to the others: a ROUTER that only receives, DEALERs that only send
"""
