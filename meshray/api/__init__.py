"""What programs call.

One file per question::

    lifecycle   init, shutdown: when is there a mesh in this process, and which
    remote      @remote and @method: what makes a function or a class remote
    functions   RemoteFunction: submitting a task
    actors      ActorClass, ActorHandle, ActorMethod: making actors and calling them
    methods     what a handle knows of its class, and how that travels
    arity       do these arguments fit that signature, at the price of two comparisons
    options     are these options right, and what do they ask for
    objects     get, put, wait, cancel
    status      nodes, resources, the runtime context

Everything here checks what it is given, then calls the runtime in `meshray.context`; nothing here waits or sends.
"""

from __future__ import annotations
