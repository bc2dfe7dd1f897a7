"""How messages leave a process and arrive.

- `endpoint.py`: one process's face to the others of its host: Unix sockets
"""
