"""The peer process: performs what the core decides.

service.py    lifetime and loop: one wake is one batch
parts.py      what a peer consists of
dispatch.py   message -> the core that it is for
perform.py    effect -> what is done
jobs.py       drivers come and go, and their jobs with them
starts.py     workers on their way, from the request to their Attach
ends.py       processes that died: what they left, who is told
processes.py  who is attached
prints.py     what workers print, to their drivers on this host or another; log_flow.py bounds it
draining.py   how the peer ends that is told to; folders.py has it end where its own folders are taken away
timers.py     what happens later
view.py       what it shows of itself; status.py makes the answers of that
zygotes.py, children.py, logs.py    workers as processes: forking, deaths, prints
detect.py     what the host has to offer
mesh.py       the peer as a member, for as long as it runs; mesh_life.py is one life of it under one node id
keyring.py    the keys of the mesh while they change; refusals.py: when others were refused, or we, for the last time
links.py, probe_lines.py, seeding.py    of such a life: sessions, datagrams, and where to begin
mesh_events.py    what it tells; traffic.py carries that to core.road, and what this host says to the links
copies.py     pieces of values on their way: files that are written, pieces that are read and sent
foreign.py    what other hosts, their processes and their jobs mean here
"""
