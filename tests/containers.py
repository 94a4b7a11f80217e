"""What tests/containers.sh asks of JSON and of ports: `containers.py VERB WORD…`.

A verb that finds something wrong ends with 1 and says what.
"""

import hashlib
import json
import os
import socket
import sys
import urllib.request
from collections import Counter


def free_ports(*names):
    """Settings of these names, each with a port that nobody uses."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    print(*(f"{name}={taken.getsockname()[1]}" for name, taken in zip(names, sockets)))


def tasks(count, salt, *types):
    """So many tasks of each type, one a line, that differ from those with another salt."""
    for n in range(int(count)):
        for kind in types:
            payload = {"sum": [n, len(salt)], "wait": "10ms"}.get(kind, f"text {n} {salt}")
            print(json.dumps({"type": kind, "payload": payload}))


def right(count, *types):
    """Whether so many tasks of each type have their result."""
    told = rows()
    wrong = [row for row in told if row["status"] != "completed" or row["result"] != expected(row)]
    counts = Counter(row["type"] for row in told)
    if wrong or counts != dict.fromkeys(types, int(count)):
        sys.exit(f"{counts}; wrong: {wrong[:3]}")


def expected(task):
    payload = task["payload"]
    match task["type"]:
        case "reverse":
            return payload[::-1]
        case "sum":
            return str(sum(json.loads(payload)))
        case "hash":
            return hashlib.sha256(payload.encode()).hexdigest()
        case "upper":
            return payload.upper()
        case "wait":
            return f"waited {payload}"


def ids():
    """The ids of tasks, in order."""
    print(*sorted(row["id"] for row in rows()), sep="\n")


def workers():
    """How many workers had a part in these tasks."""
    print(len({row["worker"] for row in rows()}))


def stats(condition):
    """Whether this holds of `s`, the grid's numbers as the monitor tells them."""
    url = f"http://localhost:{os.environ['TASKGRID_MONITOR_HTTP_PORT']}/stats"
    with urllib.request.urlopen(url, timeout=5) as answer:
        s = json.load(answer)
    if not eval(f"({condition})", {"s": s}):
        sys.exit(f"it told: {json.dumps(s)}")


def locked_up():
    """Whether a container, as `docker inspect` tells of it, may do no more than it must."""
    [it] = json.load(sys.stdin)
    host, user = it["HostConfig"], it["Config"]["User"].split(":")[0]
    bindings = [binding for bound in (host["PortBindings"] or {}).values() for binding in bound]
    held = {
        "a numeric user that is not root": user.isdigit() and int(user) > 0,
        "a read-only root": host["ReadonlyRootfs"],
        "no capabilities": host["CapDrop"] == ["ALL"] and not host["CapAdd"],
        "no new privileges": "no-new-privileges:true" in host["SecurityOpt"],
        "ports on loopback alone": all(binding["HostIp"] == "127.0.0.1" for binding in bindings),
    }
    lacks = [what for what, holds in held.items() if not holds]
    if lacks:
        sys.exit(f"it lacks {lacks}")


def rows():
    return [json.loads(line) for line in sys.stdin]


VERBS = {f.__name__: f for f in (free_ports, tasks, right, ids, workers, stats, locked_up)}
VERBS[sys.argv[1]](*sys.argv[2:])
