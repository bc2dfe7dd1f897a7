"""meshray: a brokerless peer-to-peer compute mesh with the programming model of Ray Core.

General layout, from the top floor down; a file imports only from lower floors:

    cli/        what people type
    api/        what programs call: init, remote, get, put, wait, actors
    util/       tools made of the API alone
    peer/       the peer process: leases, workers, objects that outlive a process, names
    worker/     the worker process: runs tasks, hosts an actor
    runtime/    the part of drivers and workers that submits, gets, puts, waits and counts
    core/       every decision, pure: events and time in, effects out
    transport/  sockets
    store/      large values in shared memory
    wire/       the messages, their codec, and user values as bytes
    observe/    logs, events, counters
    ids errors config resources options refs context    the ground

A program calls `.remote()`: `api` checks the arguments and hands them to the runtime that `context` holds; the runtime
asks its host's peer for workers and then speaks to them directly.
"""

from __future__ import annotations

from meshray import actor, exceptions, util
from meshray.api.lifecycle import Context, init, is_initialized, shutdown
from meshray.api.objects import cancel, get, put, wait
from meshray.api.remote import method, remote
from meshray.api.status import (
    available_resources,
    cluster_resources,
    get_actor,
    get_gpu_ids,
    get_runtime_context,
    kill,
    nodes,
    timeline,
)
from meshray.ids import ActorID, FunctionID, JobID, NodeID, ObjectID, PlacementGroupID, TaskID, WorkerID
from meshray.refs import ObjectRef

__version__ = "0.1.0"

__all__ = [
    "ActorID",
    "Context",
    "FunctionID",
    "JobID",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "PlacementGroupID",
    "TaskID",
    "WorkerID",
    "__version__",
    "actor",
    "available_resources",
    "cancel",
    "cluster_resources",
    "exceptions",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "shutdown",
    "timeline",
    "util",
    "wait",
]
