"""The bench: `scripts/bench`. It measures; tests assert no times.

Map:

    __main__.py     the command line: which rows, which rivals, where to write
    subjects.py     what is measured: meshray, its rivals, and the virtual environment of each
    plan.py         every row: its name, unit, group, goal, and who can run it
    director.py     runs one process per (group of rows, subject), one after the other, and gathers what they report
    child.py        such a process: makes the rows of its group and reports each as soon as it is measured

    timing.py       how things are counted (as `ray microbenchmark` counts them) and summed up
    microbench.py   the rows of `ray microbenchmark`, written against any module with Ray's API
    pingpong.py     synchronous rows in alternating blocks against a raw ZeroMQ ping-pong
    turns.py        tasks in flight, in turn with a process pool
    startup.py      import, first result, shutdown, each in a fresh interpreter
    memory.py       what idle processes hold
    processor.py    what a task costs in processor time
    scale.py        a million tasks, ten thousand arguments, a hundred actors, two hundred levels, one gigabyte
    pools.py        the rows that make sense for process pools and Dask
    limits.py       what the machine itself can do
    report.py       the table: text, Markdown, JSON

    cables.py       with `--lan`: hosts as network namespaces, joined by a bridge, their links limited if asked
    lan.py          the rows between hosts: starts the subject on hosts, and has the next two measure there
    between.py      a driver on one host whose tasks run on others
    curve.py        what the machine can do between two hosts, by bare ZeroMQ with CURVE

and two programs beside the table, `python -m bench.NAME`:

    fetching.py     what a fetch between two hosts costs in processor time, by thread
    ways.py         what it takes to get pieces out of a segment, through CURVE, and into one, without a mesh

Rows that are compared run minutes apart on the same machine in the same run; figures of different runs are not
comparable (an idle core sleeps, and a synchronous round trip takes two to three times as long on it).
"""
