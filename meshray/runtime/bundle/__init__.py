"""The driver's own folder, on its way to hosts that do not have it.

- `own.py`      which folder is the program's own
- `gather.py`   what belongs to it, and what is left out
- `archive.py`  many files as one sequence of bytes, the same for the same content; and back, trusting nothing
- `sending.py`  the driver's side: packed once, when another host first hears of the job

The worker's side is `worker.code`. Nothing of this is loaded by a driver whose job stays on its host.
"""
