"""The entry of a peer process: the one place that knows both the peer and the worker.

__main__.py   run by its path (see launch.py): finds this very package, then goes on in
process.py    settings, folder, log, zygote, service; and one answer to whoever started it
"""
