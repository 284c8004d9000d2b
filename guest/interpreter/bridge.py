"""The code interpreter's program for every language but Python: one process is one context.

Usage: python3 bridge.py COMMAND [ARGUMENT ...]

Speaks the host's protocol (coppice_interpreter/wire.py) and runs COMMAND, the runtime of the language, which speaks a small
one of its own: coppice_bridge/runtime.py has it.
"""

import os
import sys


def main():
    # The program lies on a read-only drive.
    sys.dont_write_bytecode = True
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from coppice_interpreter.wire import Wire

    wire = Wire()
    try:
        from coppice_bridge.program import Program

        Program(wire, sys.argv[1:]).serve()
    except BaseException:
        import traceback

        wire.diagnose(traceback.format_exc())
        os._exit(70)


main()
