"""The loop: takes one request of the host after the other and has the runtime serve it."""

import base64
import os
import signal

from coppice_interpreter.mime import fields_of
from coppice_interpreter.wire import MAX_ERROR

from .runtime import Runtime, RuntimeEnded


class Program:
    def __init__(self, wire, command):
        self._wire = wire
        self._runs = 0
        # Counted for the user, who sees no run without a trace.
        self._count = 0
        self._running = False
        self._env = {}
        # Tools that ask whether they may colour their output are told no, and text is UTF-8 unless somebody says otherwise.
        os.environ.setdefault("TERM", "dumb")
        os.environ.setdefault("PAGER", "cat")
        if not any(os.environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG")):
            os.environ["LC_CTYPE"] = "C.UTF-8"
        self._base = dict(os.environ)
        # A handler and not SIG_IGN, which the runtime would inherit.
        signal.signal(signal.SIGINT, self._on_interrupt)
        self._runtime = Runtime(command)
        wire.watch(self._runtime.events, self._drop_events)
        wire.watch(self._runtime.end, _leave)

    def serve(self):
        self._wire.send({"type": "ready"})
        while True:
            request = self._wire.next_request()
            if request is None:
                os._exit(0)
            try:
                self._serve_one(request)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"[:1000]
                self._wire.send({"type": "refused", "id": str(request.get("id", "")), "reason": reason})
                if isinstance(error, RuntimeEnded):
                    _leave()

    def _serve_one(self, request):
        op = request.get("op")
        if op == "execute":
            self._execute(request)
        elif op == "env":
            self._set_env(_strings(request["set"]))
        elif op == "reseed":
            if "generation" in request:
                self._ask("env", [f"COPPICE_GENERATION={request['generation']}"])
            keep = "keep" if request.get("keep_given") is True else "all"
            self._ask("reseed", [keep, _mixed(request["entropy"])])
            self._wire.send({"type": "ack", "id": str(request["id"])})
        elif op == "ping":
            self._wire.send({"type": "ack", "id": str(request["id"])})
        else:
            raise ValueError("unknown request")

    def _drop_events(self):
        if not self._runtime.drop_events():
            _leave()

    def _ask(self, request, strings):
        """Has a request served that has no events of its own."""
        self._runtime.ask(request, strings)
        failure = None
        while not _is_end(event := self._runtime.next_event(), None):
            if event.get("type") == "error":
                failure = failure or str(event.get("value"))
        if failure is not None:
            raise ValueError(failure)

    # -- runs -------------------------------------------------------------------------------------------------------

    def _execute(self, request):
        if self._runtime.has_ended():
            # Nothing of the cell has run: the host gives it to another program.
            _leave()
        wire, run, code = self._wire, str(request["id"]), str(request["code"])
        env = _strings(request.get("env_vars") or {})
        self._runs += 1
        count = self._count + 1
        if request.get("trace", True):
            self._count = count
        end = None
        wire.begin(run)
        try:
            wire.emit({"type": "number_of_executions", "execution_count": count})
            self._running = True
            variables = [f"{name}={value}" for name, value in env.items()]
            self._runtime.ask("run", [str(len(env)), *variables, code], self._runs)
            self._forward()
        except RuntimeEnded as ended:
            end = ended
            self._tell_end(ended)
        finally:
            self._running = False
            wire.finish()
            wire.send({"type": "end_of_execution", "id": run})
        if end is not None:
            _leave(end.status)

    def _forward(self):
        wire, failed = self._wire, False
        while True:
            event = self._runtime.next_event()
            if _is_end(event, str(self._runs)):
                return
            kind = event.get("type")
            if kind in ("stdout", "stderr"):
                wire.print(kind, str(event.get("text", "")))
            elif kind == "result":
                data = event.get("data")
                wire.result(event.get("main") is True, fields_of(data if isinstance(data, dict) else {}))
            elif kind == "error" and not failed:
                failed = True
                self._tell_error(event)

    def _tell_error(self, event):
        name, value, traceback = (str(event.get(key, "")) for key in ("name", "value", "traceback"))
        limit = MAX_ERROR // 4
        if len(traceback) > MAX_ERROR:
            half = MAX_ERROR // 2
            left_out = len(traceback) - 2 * half
            traceback = f"{traceback[:half]}\n[{left_out} characters left out]\n{traceback[-half:]}"
        self._wire.emit({"type": "error", "name": name[:1024], "value": value[:limit], "traceback": traceback})

    def _tell_end(self, ended):
        """Code that ends its own process with success has not failed."""
        if ended.status > 0:
            value = str(ended.status)
            self._tell_error({"name": "ExitCode", "value": value, "traceback": f"ExitCode: {value}"})
        elif ended.status < 0:
            value = f"The context's process ended before the execution was finished ({ended})"
            name = "UnexpectedEndOfExecution"
            self._tell_error({"name": name, "value": value, "traceback": f"{name}: {value}"})

    def _on_interrupt(self, _signum, _frame):
        # The runtime is in the same process group and has had the signal too.
        if self._running:
            self._runtime.interrupt(self._runs)

    # -- environment ------------------------------------------------------------------------------------------------

    def _set_env(self, new):
        """Names that were in the set before and are not in this one get back the value they had at the start."""
        changes = [f"{name}={value}" for name, value in new.items() if self._env.get(name) != value]
        for name in self._env:
            if name not in new:
                changes.append(f"{name}={self._base[name]}" if name in self._base else name)
        if changes:
            self._ask("env", changes)
        self._env = new


def _is_end(event, run):
    """Whether it ends the present request, of run `run` or of another kind: an interrupted run may be ended twice."""
    return event.get("type") == "done" and event.get("run", run) == run


def _strings(values):
    if not isinstance(values, dict) or not all(isinstance(item, str) for pair in values.items() for item in pair):
        raise ValueError("an environment is a map of strings")
    return dict(values)


def _mixed(entropy):
    """What the host gave, mixed with what the kernel gives now, as hex."""
    import hashlib

    secret = base64.b64decode(entropy, validate=True)
    if len(secret) < 16:
        raise ValueError("entropy is shorter than 16 bytes")
    return hashlib.blake2b(secret + os.urandom(32)).hexdigest()


def _leave(status=0):
    """Without its runtime a context is over; the host starts another one when it is needed."""
    os._exit(status if status >= 0 else 128 - status)
