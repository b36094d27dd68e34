"""A small supervisor that speaks the control protocol and publishes events over real sockets, its jobs scripted by the test.

It runs in a thread of its own; a test changes it through its methods, each done in that thread before the method returns.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import zmq

from supervisor.control import MAX_MESSAGE_BYTES, PROTOCOL

Result = TypeVar("Result")

WITHIN_S = 40

ENDED = {"completed", "failed", "cancelled"}
KINDS = {"sam.segment": "sam", "sam.propagate": "sam", "yolo.train": "yolo", "demo.count": "demo"}


class No(Exception):
    """A refusal: code and sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class FakeSupervisor:
    """Its state is plain dicts in the shapes of supervisor/shapes.py."""

    def __init__(self, state_dir: Path) -> None:
        state_dir.mkdir(parents=True, exist_ok=True)
        self.state_dir = state_dir
        self.jobs: dict[str, dict[str, Any]] = {}
        self.gone: set[str] = set()
        self.keys: dict[str, tuple[str, str]] = {}
        self.lease: dict[str, Any] | None = None  # of the one program outside Warden that has the device
        self.events: list[dict[str, Any]] = []
        self.whole_from = 1  # before it events may have been taken away
        self.asked: list[tuple[str, dict[str, Any], str]] = []
        self.silent = False
        self.unanswered: set[str] = set()  # operations
        self.mute = False  # events are written down but not published, as for a subscriber that was away
        self.held = False
        self.on_status: Callable[[], None] = lambda: None  # between the making of a status and its sending, in the thread of the sockets
        self.unwell: list[str] = []
        self.stopping = False
        self.vacate_timeout_s = 120.0
        self.memory: dict[str, Any] = {"available_bytes": 8 * 2**30}
        self.workers = [worker("sam-0", "sam"), worker("yolo-0", "yolo", state="down"), worker("demo-0", "demo")]
        self.devices = [device()]
        self.on_submit: dict[str, Callable[[dict[str, Any]], None]] = {"sam.segment": self._segment, "yolo.train": self._run}
        self._number = 0
        self._thread: threading.Thread | None = None
        self._ordering = threading.Lock()  # a socket is for one thread at a time, and any may give orders

    # --- its life ---

    def start(self) -> "FakeSupervisor":
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._orders = self._context.socket(zmq.PUSH)
        self._orders.bind("inproc://orders")
        self._work: list[tuple[Callable[[], Any], Future[Any]]] = []
        ready = threading.Event()
        self._thread = threading.Thread(target=self._loop, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(WITHIN_S)
        return self

    def stop(self) -> None:
        """End; what is stored stays for the next start."""
        if self._thread is None:
            return
        with self._ordering:
            self._orders.send(b"stop")
        self._thread.join(WITHIN_S)
        self._thread = None
        self._orders.close(linger=0)
        self._context.term()

    def do(self, action: Callable[[], Result]) -> Result:
        """Return what the action returns, done in the thread of the sockets."""
        future: Future[Result] = Future()
        with self._ordering:
            self._work.append((action, future))
            self._orders.send(b"do")
        return future.result(WITHIN_S)

    def _loop(self, ready: threading.Event) -> None:
        router = self._context.socket(zmq.ROUTER)
        router.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self._pub = self._context.socket(zmq.PUB)
        orders = self._context.socket(zmq.PULL)
        orders.connect("inproc://orders")
        for socket, name in ((router, "control"), (self._pub, "events")):
            socket.setsockopt(zmq.LINGER, 0)
            (self.state_dir / f"{name}.sock").unlink(missing_ok=True)
            socket.bind(f"ipc://{self.state_dir / name}.sock")
        ready.set()
        poller = zmq.Poller()
        poller.register(router, zmq.POLLIN)
        poller.register(orders, zmq.POLLIN)
        going = True
        while going:
            for socket, _ in poller.poll():
                parts = socket.recv_multipart()
                if socket is router:
                    self._answer(router, parts[0], json.loads(parts[-1]))
                elif parts[0] == b"stop":
                    going = False
                else:
                    action, future = self._work.pop(0)
                    try:
                        future.set_result(action())
                    except Exception as error:  # noqa: BLE001 - the test that asked for it gets it
                        future.set_exception(error)
        for socket in (router, self._pub, orders):
            socket.close(linger=0)
        for name in ("control", "events"):
            (self.state_dir / f"{name}.sock").unlink(missing_ok=True)

    def _answer(self, router: "zmq.Socket[bytes]", sender: bytes, request: dict[str, Any]) -> None:
        self.asked.append((request["op"], request.get("args", {}), request.get("by", "")))
        if self.silent or request["op"] in self.unanswered:
            return
        answer: dict[str, Any] = {"v": PROTOCOL, "id": request["id"], "ok": True}
        try:
            answer["data"] = self._handle(request["op"], request.get("args", {}))
        except No as no:
            answer |= {"ok": False, "error": {"code": no.code, "message": no.message}}
        data = json.dumps(answer).encode()
        if request["op"] == "status":
            self.on_status()
        router.send_multipart([sender, data])

    # --- what a test does to it ---

    def publish(self, event: str, *, job: str | None = None, worker: str | None = None, **data: Any) -> int:
        """Write an event down and publish it; return its number."""
        return self.do(lambda: self._publish(event, job=job, worker=worker, data=data))

    def change(self, job: str, event: str = "job_moved", **fields: Any) -> int:
        """Change a job, and say so; return the number of the event."""
        return self.do(lambda: self._change(job, event, fields))

    def submit(self, kind: str, **fields: Any) -> str:
        """Return the id of a new job."""
        return self.do(lambda: str(self._submit({"kind": kind, "params": {}}, **fields)["id"]))

    def _publish(self, event: str, *, job: str | None, worker: str | None, data: dict[str, Any]) -> int:
        seq = len(self.events) + 1
        view = {"seq": seq, "at": now(), "event": event, "worker": worker, "job": job, "reason": "", "data": data}
        self.events.append(view)
        if not self.mute:
            self._pub.send_multipart([(job or "").encode(), json.dumps(view).encode()])
        return seq

    def _change(self, job: str, event: str, fields: dict[str, Any]) -> int:
        view = self.jobs[job]
        view.update(fields)
        names = ("status", "phase", "progress", "done", "total", "eta_s", "metrics", "attempt", "reason", "message")
        return self._publish(event, job=job, worker=view["worker"], data={name: view[name] for name in names})

    def _segment(self, job: dict[str, Any]) -> None:
        self._change(job["id"], "job_completed", {"status": "completed", "progress": 100.0, "completed_at": now(), "result": {"size": [2, 2], "masks": []}})

    def _run(self, job: dict[str, Any]) -> None:
        self._change(job["id"], "job_started", {"status": "running", "started_at": now(), "worker": "yolo-0"})

    # --- what it answers ---

    def _handle(self, op: str, args: dict[str, Any]) -> Any:
        table: dict[str, Callable[[dict[str, Any]], Any]] = {
            "status": lambda _: self._status(),
            "kinds": lambda _: [{"kind": kind, "worker": model, "params": None} for kind, model in KINDS.items()],
            "schedules": lambda _: [],
            "jobs.submit": self._submit,
            "jobs.page": self._page,
            "jobs.live": lambda _: self._live(),
            "jobs.show": lambda args: self._find(args["job"]),
            "jobs.why": self._why,
            "jobs.cancel": lambda args: self._end(args["job"]),
            "jobs.pause": lambda args: self._move(args["job"], {"running"}, "paused"),
            "jobs.resume": lambda args: self._move(args["job"], {"paused"}, "queued"),
            "jobs.start": lambda args: self._move(args["job"], {"queued"}, "queued"),
            "jobs.retry": self._retry,
            "jobs.hold": lambda _: self._hold(held=True),
            "jobs.release": lambda _: self._hold(held=False),
            "events.since": self._since,
            **{f"workers.{name}": self._workers for name in ("start", "stop", "restart", "recycle")},
            "workers.dump": self._dump,
            "gpu.lock": self._lock,
            "gpu.renew": self._keep,
            "gpu.unlock": self._keep,
            "gpu.reset": lambda _args: self._release("stale"),
            "gpu.force_release": lambda _args: self._release("held"),
            "gpu.vacate": self._vacate,
            "gpu.withdraw": lambda args: {"ticket": args["ticket"]},
        }
        if op not in table:
            raise No("usage", f"operation {op!r} is unknown")
        return table[op](args)

    def _lock(self, args: dict[str, Any]) -> Any:
        """Grant a device to whoever asks first; the others are told at once who holds it."""
        if args.get("device") not in {None, "host"}:
            raise No("unknown", f"there is no device {args['device']}; there are host")
        if args.get("purpose") == "load":
            return {"granted": True, "ticket": args["ticket"], "lease": "l-8", "fence": 8, "device": "host", "expires_in_s": 30.0}
        if self.lease is not None and self.lease["ticket"] != args["ticket"]:
            return {"granted": False, "ticket": args["ticket"], "device": "host", "reason": "lock_timeout", "message": "first holds host",
                    "holders": [holder(self.lease["owner"], kind="outside", pid=None)]}  # fmt: skip
        self.lease = {"owner": args["owner"], "ticket": args["ticket"], "fence": 7}
        return self._keep({"lease": "l-7", "fence": 7})

    def _keep(self, args: dict[str, Any]) -> dict[str, Any]:
        if self.lease is None or (args["lease"], args["fence"]) != ("l-7", 7):
            raise No("conflict", f"lease {args['lease']} with fence {args['fence']} is over: it was given back, or its owner's time was over")
        env = {"WARDEN_DEVICE": "host"}
        return {"granted": True, "ticket": self.lease["ticket"], "lease": "l-7", "fence": 7, "device": "host", "expires_in_s": 30.0, "env": env}

    def _release(self, state: str) -> dict[str, Any]:
        """Take the lease back from whoever has it, where it is in this state (nobody's is ever stale here)."""
        lease, was = self.lease, {"lease": "l-7", "kind": "outside", "pid": None, "device": "host", "state": "held", "fence": 7}
        if lease is None or state == "stale":
            return {"released": [], "message": "nothing was taken back"}
        self.lease = None
        return {"released": [{"owner": lease["owner"], **was}], "message": f"{lease['owner']} has host no more"}

    def _vacate(self, args: dict[str, Any]) -> dict[str, Any]:
        if args.get("device") not in {None, "host"}:
            raise No("unknown", f"there is no device {args['device']}; there are host")
        if self.lease is None:
            return {"success": True, "message": "host is empty", "freed_bytes": 5, "holders": [], "device": "host", "kept_free_s": 300.0}
        held = [holder(self.lease["owner"], kind="outside", pid=None)]
        return {"success": False, "message": f"{self.lease['owner']} holds host", "freed_bytes": 0, "holders": held, "device": "host"}

    def _live(self) -> list[dict[str, Any]]:
        live = Counter((job["kind"], job["status"]) for job in self.jobs.values() if job["status"] not in ("completed", "failed", "cancelled"))
        return [{"kind": kind, "status": status, "count": count} for (kind, status), count in live.items()]

    def _status(self) -> dict[str, Any]:
        counts: dict[str, int] = {}
        for job in self.jobs.values():
            counts[job["status"]] = counts.get(job["status"], 0) + 1
        return {
            "supervisor": {
                "pid": 1, "version": "0", "uptime_s": 1.0, "config": "", "state_dir": str(self.state_dir), "log_dir": "", "loop_lag_ms": 0.5,
                "pss_bytes": None, "dropped_messages": 0, "stopping": self.stopping, "config_generation": 1, "config_error": "",
                "vacate_timeout_s": self.vacate_timeout_s,
            },
            "workers": self.workers,
            "devices": self.devices,
            "memory": self.memory,
            "jobs": counts,
            "interventions": [],
            "unwell": self.unwell,
            "held": self.held,
        }  # fmt: skip

    def _submit(self, args: dict[str, Any], **fields: Any) -> dict[str, Any]:
        kind = args["kind"]
        if kind not in KINDS:
            raise No("usage", f"no worker serves {kind!r}; known are {', '.join(KINDS)}")
        key, asked = args.get("idempotency_key", ""), json.dumps([kind, args["params"]], sort_keys=True)
        if key in self.keys:
            job, before = self.keys[key]
            if before != asked:
                raise No("invalid", "this idempotency key was used for something else")
            return self.jobs[job]
        self._number += 1
        job = f"j-{self._number:010d}"
        folder = self.state_dir / "jobs" / job
        folder.mkdir(parents=True)
        self.jobs[job] = view = {
            "id": job, "kind": kind, "params": args["params"], "status": "queued", "phase": "", "reason": "held" if args.get("hold") else "",
            "message": "", "priority": args.get("priority") or 10, "attempt": 0, "max_attempts": args.get("max_attempts") or 1, "progress": 0.0, "done": 0.0,
            "total": 0.0, "metrics": {}, "eta_s": None, "worker": None, "device": None, "position": 1, "created_at": now(), "started_at": None,
            "completed_at": None, "dir": str(folder), "result": None, "error": None, "cancel": None, "retry_of": None, **fields,
        }  # fmt: skip
        if key:
            self.keys[key] = (job, asked)
        self._change(job, "job_queued", {})
        if kind in self.on_submit and not args.get("hold"):
            self.on_submit[kind](view)
        return view

    def _find(self, name: str) -> dict[str, Any]:
        if name in self.gone:
            raise No("gone", f"job {name} ended and was cleaned up")
        if name not in self.jobs:
            raise No("unknown", f"no job {name!r} is known")
        return self.jobs[name]

    def _move(self, name: str, allowed: set[str], status: str) -> dict[str, Any]:
        job = self._find(name)
        if job["status"] not in allowed:
            raise No("conflict", f"job {name} is {job['status']}: that is not possible now")
        self._change(name, f"job_{status}", {"status": status, "reason": "waiting_for_worker" if status == "queued" else ""})
        if status == "queued" and job["kind"] in self.on_submit:
            self.on_submit[job["kind"]](job)
        return job

    def _end(self, name: str) -> dict[str, Any]:
        if self._find(name)["status"] in ENDED:
            raise No("conflict", f"job {name} has ended already")
        self._change(name, "job_cancelled", {"status": "cancelled", "completed_at": now(), "cancel": {"freed_bytes": 5, "took_s": 0.1}})
        return self.jobs[name]

    def _retry(self, args: dict[str, Any]) -> dict[str, Any]:
        key = args.get("idempotency_key", "")
        if key in self.keys:
            job, before = self.keys[key]
            if before != f"retry {args['job']}":
                raise No("invalid", "this idempotency key was used for something else")
            return self.jobs[job]
        old = self._find(args["job"])
        if old["status"] not in ENDED:
            raise No("conflict", f"job {old['id']} is {old['status']}: only one that ended can be retried")
        made = self._submit({"kind": old["kind"], "params": old["params"]}, retry_of=old["id"])
        if key:
            self.keys[key] = (made["id"], f"retry {old['id']}")
        return made

    def _why(self, args: dict[str, Any]) -> dict[str, Any]:
        job = self._find(args["job"])
        return {"job": job["id"], "kind": job["kind"], "status": job["status"], "reason": job["reason"], "sentences": ["it waits"], "you_can": []}

    def _page(self, args: dict[str, Any]) -> dict[str, Any]:
        known = {"queued", "preparing", "running", "pausing", "paused", "cancelling", *ENDED}
        if wrong := set(args["statuses"]) - known:
            raise No("usage", f"status {min(wrong)!r} is unknown")
        newest = [job for job in reversed(self.jobs.values()) if (not args["statuses"] or job["status"] in args["statuses"])]
        newest = [job for job in newest if args.get("kind", "") in {"", job["kind"]}]
        cursor = args.get("cursor", "")
        if cursor and cursor not in self.jobs:
            raise No("usage", f"the cursor {cursor!r} is none")
        left = [job for job in newest if not cursor or job["id"] < cursor]
        page = left[: args["limit"]]
        return {"jobs": page, "next": page[-1]["id"] if len(left) > len(page) else ""}

    def _hold(self, *, held: bool) -> dict[str, Any]:
        self.held = held
        return {"held": held}

    def _since(self, args: dict[str, Any]) -> dict[str, Any]:
        found = [event for event in self.events if event["seq"] > args["after"] and args["job"] in {"", event["job"]}]
        return {"events": found[: args["limit"]], "first": max(1, self.whole_from) if self.events else 0, "last": len(self.events)}

    def _named(self, name: str) -> list[str]:
        found = [one["name"] for one in self.workers if name in {one["name"], one["model"]}]
        if not found:
            raise No("unknown", f"no worker {name!r}")
        return found

    def _workers(self, args: dict[str, Any]) -> list[str]:
        return self._named(args["name"])

    def _dump(self, args: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {"worker": name, "pid": 1, "generation": 1, "state": "ready", "jobs": [], "process": "S", "stack": "", "log_tail": [], "log": ""}
            for name in self._named(args["name"])
        ]


def worker(name: str, model: str, *, state: str = "ready", jobs: list[str] | None = None) -> dict[str, Any]:
    return {
        "name": name, "state": state, "wanted": "up", "pid": 1, "generation": 1, "model": model, "jobs": jobs or [], "since_s": 1.0, "age_s": 1.0,
        "silent_s": 0.2, "still_s": None, "memory_bytes": 2**30, "memory_limit_bytes": 8 * 2**30, "device_bytes": None,
        "restarts": {"crash": 2}, "last_reason": "", "note": "", "next_action": "", "clocks": [],
    }  # fmt: skip


def holder(owner: str, **fields: Any) -> dict[str, Any]:
    return {
        "lease": "l-1", "owner": owner, "kind": "worker", "pid": 1, "priority": 10, "need_bytes": 8 * 2**30, "used_bytes": 3 * 2**30, "state": "held",
        "since_s": 65.0, "fence": 1, **fields,
    }  # fmt: skip


def device(*holders: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "id": "host", "name": "host", "backend": "host", "state": "ok", "proof": "", "trouble": "", "total_bytes": 16 * 2**30, "used_bytes": 2**30,
        "free_bytes": 15 * 2**30, "holders": list(holders), "waiters": [], "handover": None, "last_handover": None, **fields,
    }  # fmt: skip
