"""The code interpreter's program in the guest: one process is one context.

Usage: python3 main.py [--warm]

Requests come as JSON lines on stdin, events leave as JSON lines on stdout; wire.py has both formats. With --warm the
program imports what a first cell would have to import (plotting, numbers) and runs each display path once, so that a
checkpoint taken afterwards holds warm pages; it leaves nothing in the user's namespace.
"""

import os
import sys


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    # The fds are moved before anything else is imported, so that nothing can print into the protocol.
    sys.path[:] = [here] + [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    # The program lies on a read-only drive; what user code imports is cached as Python has it.
    cached, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    from coppice_interpreter.wire import Wire

    wire = Wire()
    try:
        from coppice_interpreter.program import Program

        sys.dont_write_bytecode = cached
        # As in a notebook: the current directory first, and none of this program's own directories.
        sys.path[0] = ""
        sys.argv[:] = [""]
        Program(wire, warm="--warm" in sys.orig_argv).serve()
    except BaseException:
        import traceback

        wire.diagnose(traceback.format_exc())
        os._exit(70)


main()
