"""The loop: takes one request after the other and runs cells."""

import gc
import os
import signal
import sys
import traceback

from .clone import reseed
from .hooks import install, remember_boxes, show_saved_images
from .seeds import Seeds
from .shell import create_shell
from .streams import PrintStream

# What a first cell is likely to need, run before the checkpoint. Nothing here may draw a random number.
WARM_CELLS = (
    "1+1",
    "print('x')",
    "x = 1\nx",
    "{'a': [1, 2.5]}",
    "1/0",
    "import asyncio\nawait asyncio.sleep(0)",
    "%time 1",
    "x = !true",
    "import numpy",
    "import pandas\npandas.DataFrame({'a': [1]})",
    "import matplotlib.pyplot as plt\nplt.plot([1, 2], label='a')\nplt.title('t')\nplt.show()",
)


class Program:
    def __init__(self, wire, warm):
        self._wire = wire
        self._env = {}
        self._base = {}
        sys.stdout = PrintStream(wire, "stdout")
        sys.stderr = PrintStream(wire, "stderr")
        os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
        # Tools that ask whether they may colour their output are told no.
        os.environ.setdefault("TERM", "dumb")
        os.environ.setdefault("PAGER", "cat")
        signal.signal(signal.SIGINT, wire.gate.on_signal)
        self._shell = create_shell(wire)
        self._seeds = Seeds()
        install({"PIL.Image": show_saved_images, "matplotlib.axes._axes": remember_boxes, **self._seeds.actions()})
        self._pid = os.getpid()
        if warm:
            self._warm()

    def serve(self):
        self._wire.send({"type": "ready"})
        while True:
            request = self._wire.next_request()
            if request is None:
                break
            try:
                self._serve_one(request)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"[:1000]
                self._wire.send({"type": "refused", "id": str(request.get("id", "")), "reason": reason})
        # The host has gone for good. Threads of the user's must not hold the process.
        os._exit(0)

    def _serve_one(self, request):
        op = request.get("op")
        if op == "execute":
            self._execute(request)
        elif op == "env":
            self._set_env(_strings(request["set"]))
        elif op == "reseed":
            if "generation" in request:
                # As in processes that start from now on.
                os.environ["COPPICE_GENERATION"] = str(request["generation"])
            reseed(request["entropy"], self._seeds, request.get("keep_given") is True)
            self._wire.send({"type": "ack", "id": str(request["id"])})
        elif op == "ping":
            self._wire.send({"type": "ack", "id": str(request["id"])})
        else:
            raise ValueError("unknown request")

    # -- runs -------------------------------------------------------------------------------------------------------

    def _execute(self, request):
        run, code = str(request["id"]), str(request["code"])
        env = _strings(request.get("env_vars") or {})
        if request.get("trace", True):
            self._run(run, code, env)
            return
        with _NoTrace(self._shell):
            self._run(run, code, env)

    def _run(self, run, code, env):
        wire, shell = self._wire, self._shell
        wire.begin(run)
        try:
            wire.emit({"type": "number_of_executions", "execution_count": shell.execution_count})
            before = {name: os.environ.get(name) for name in env}
            os.environ.update(env)
            shell.failed = False
            try:
                self._run_cell(code)
            finally:
                _assign(before)
        finally:
            if os.getpid() != self._pid:
                # A child that user code forked and let run on. It has no protocol to speak.
                os._exit(0)
            signal.signal(signal.SIGINT, wire.gate.on_signal)
            wire.finish()
            wire.send({"type": "end_of_execution", "id": run})

    def _run_cell(self, code):
        wire, shell = self._wire, self._shell
        gate = wire.gate
        gate.pending = False
        try:
            try:
                gate.running = True
                result = shell.run_cell(code, store_history=True)
            finally:
                gate.running = False
        except BaseException as error:
            # What escapes the shell: an interrupt in its own code, or a fault of a hook that user code installed.
            gate.running = False
            lines = traceback.format_exception(error) if not isinstance(error, KeyboardInterrupt) else []
            shell.error(type(error).__name__, _printed(error), "".join(lines) or type(error).__name__)
            return
        finally:
            shell.history_manager.db_input_cache.clear()
        error = result.error_before_exec or result.error_in_exec
        if error is not None:
            shell.error(type(error).__name__, _printed(error), f"{type(error).__name__}: {_printed(error)}")

    # -- environment ------------------------------------------------------------------------------------------------

    def _set_env(self, new):
        """Names that were in the set before and are not in this one get back the value they had without it."""
        for name in new:
            if name not in self._base:
                self._base[name] = os.environ.get(name)
        _assign({name: self._base[name] for name in self._env if name not in new})
        _assign({name: value for name, value in new.items() if self._env.get(name) != value or name not in os.environ})
        self._env = new

    # -- warm-up ----------------------------------------------------------------------------------------------------

    def _warm(self):
        environment, directory, path = dict(os.environ), os.getcwd(), list(sys.path)
        muted = _Muted(self._wire)
        with muted, _NoTrace(self._shell):
            for cell in WARM_CELLS:
                self._run("warm", cell, {})
        os.chdir(directory)
        sys.path[:] = path
        _assign({name: None for name in os.environ if name not in environment})
        _assign(environment)
        gc.collect()
        # Whatever exists now is left alone by the collector from here on: a clone does not write to those pages.
        gc.freeze()


class _Muted:
    """Events go nowhere."""

    def __init__(self, wire):
        self._wire = wire

    def __enter__(self):
        self._wire.muted = True

    def __exit__(self, *_):
        self._wire.muted = False


class _NoTrace:
    """Runs inside leave nothing in the user's namespace, its counters, its caches of input and output."""

    def __init__(self, shell):
        self._shell = shell

    def __enter__(self):
        shell = self._shell
        self._count = shell.execution_count
        self._names = dict(shell.user_ns)
        self._hidden = dict(shell.user_ns_hidden)
        self._out = dict(shell.user_ns.get("_oh", {}))
        history = shell.history_manager
        self._inputs = [list(history.input_hist_parsed), list(history.input_hist_raw)]
        self._last = {name: getattr(history, name) for name in ("_i", "_ii", "_iii", "_i00")}
        hook = shell.displayhook
        self._results = {name: getattr(hook, name, "") for name in ("_", "__", "___")}

    def __exit__(self, *_):
        shell = self._shell
        out = shell.user_ns.get("_oh")
        shell.user_ns.clear()
        shell.user_ns.update(self._names)
        shell.user_ns_hidden.clear()
        shell.user_ns_hidden.update(self._hidden)
        if isinstance(out, dict):
            out.clear()
            out.update(self._out)
        history = shell.history_manager
        history.input_hist_parsed[:] = self._inputs[0]
        history.input_hist_raw[:] = self._inputs[1]
        for name, value in self._last.items():
            setattr(history, name, value)
        for name, value in self._results.items():
            setattr(shell.displayhook, name, value)
        shell.displayhook.exec_result = None
        shell.execution_count = self._count
        shell.last_execution_result = None
        shell.last_execution_succeeded = True
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            if hasattr(sys, name):
                delattr(sys, name)


def _strings(values):
    if not isinstance(values, dict) or not all(isinstance(item, str) for pair in values.items() for item in pair):
        raise ValueError("an environment is a map of strings")
    return dict(values)


def _assign(values):
    """None removes."""
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _printed(error):
    try:
        return str(error)
    except Exception:
        return ""
