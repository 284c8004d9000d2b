"""IPython's InteractiveShell with its ends tied to the wire: results, displays, errors, no terminal, no history file."""

import builtins
import getpass
import subprocess

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.error import StdinNotImplementedError, UsageError
from IPython.core.formatters import BaseFormatter
from IPython.core.interactiveshell import InteractiveShell
from traitlets import ObjectName, Type, Unicode
from traitlets.config import Config

from .charts import chart_of_figure
from .mime import fields_of
from .values import data_of_frame, json_of_container
from .wire import MAX_ERROR


class _ResultHook(DisplayHook):
    """The value of a cell's last expression."""

    def start_displayhook(self):
        pass

    def write_output_prompt(self):
        pass

    def write_format_data(self, format_dict, md_dict=None):
        self.shell.wire.result(True, fields_of(format_dict))

    def finish_displayhook(self):
        pass


class _Publisher(DisplayPublisher):
    """display(). An update of an earlier display has no event of its own in the contract and is not sent."""

    def publish(self, data, metadata=None, source=None, *, transient=None, update=False, **_kwargs):
        if not update:
            self.shell.wire.result(False, fields_of(data))

    def clear_output(self, wait=False):
        pass


class _ChartFormatter(BaseFormatter):
    """Knows figures by name: matplotlib's inline backend takes Figure out of every formatter's registry."""

    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = dict

    def __call__(self, obj):
        if any(cls.__name__ == "Figure" and cls.__module__ == "matplotlib.figure" for cls in type(obj).__mro__):
            return chart_of_figure(obj)
        return super().__call__(obj)


class _DataFormatter(BaseFormatter):
    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = dict


class Shell(InteractiveShell):
    displayhook_class = Type(_ResultHook)
    display_pub_class = Type(_Publisher)
    # Set before the base class is initialised: its parts find the wire through the shell.
    wire = None
    failed = False

    def __init__(self, wire, **kwargs):
        type(self).wire = wire
        super().__init__(**kwargs)
        formatters = self.display_formatter.formatters
        for cls in (_ChartFormatter, _DataFormatter):
            formatter = cls(parent=self.display_formatter)
            formatters[formatter.format_type] = formatter
        formatters["e2b/data"].for_type_by_name("pandas.core.frame", "DataFrame", data_of_frame)
        as_json = formatters["application/json"]
        as_json.for_type(list, json_of_container)
        as_json.for_type(dict, json_of_container)
        builtins.input = _no_input
        getpass.getpass = _no_input

    def init_display_formatter(self):
        super().init_display_formatter()
        # A value for the JSON formatter may be any JSON value, not only the string and containers it insists on.
        self.display_formatter.formatters["application/json"]._return_type = object

    # -- errors -----------------------------------------------------------------------------------------------------

    def error(self, name, value, traceback):
        """The first error of a run is the one that counts."""
        if not self.failed:
            self.failed = True
            event = {"name": name[:1024], "value": value[: MAX_ERROR // 4], "traceback": _middle_cut(traceback)}
            self.wire.emit({"type": "error", **event})

    def _showtraceback(self, etype, evalue, stb):
        try:
            value = str(evalue)
        except Exception:
            value = "<the error cannot be printed>"
        self.error(getattr(etype, "__name__", str(etype)), value, "\n".join(stb))

    def show_usage_error(self, exc):
        super().show_usage_error(exc)
        self.error(UsageError.__name__, str(exc), f"UsageError: {exc}")

    # -- no terminal ------------------------------------------------------------------------------------------------

    def ask_exit(self):
        raise SystemExit

    def enable_gui(self, gui=None):
        if gui not in (None, "inline", "agg"):
            raise UsageError(f"there is no display for the GUI event loop {gui!r}")

    def init_readline(self):
        pass

    def system(self, cmd):
        self.system_raw(cmd)

    def getoutput(self, cmd, split=True, depth=0):
        if cmd.rstrip().endswith("&"):
            raise OSError("Background processes not supported.")
        done = subprocess.run(
            self.var_expand(cmd, depth=depth + 1), shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        out = done.stdout.decode("utf-8", "replace")
        if split:
            from IPython.utils.text import SList

            return SList(out.splitlines())
        return out


def _no_input(prompt="", *_args, **_kwargs):
    raise StdinNotImplementedError("input was called, but there is nobody to type: the code interpreter has no stdin")


def _middle_cut(text):
    if len(text) <= MAX_ERROR:
        return text
    half = MAX_ERROR // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}"


def create_shell(wire):
    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    config.InteractiveShell.banner1 = ""
    config.InteractiveShell.separate_in = ""
    config.InteractiveShell.xmode = "Context"
    # The name of the colourless theme is written in lower case from IPython 9 on.
    import IPython

    config.InteractiveShell.colors = "NoColor" if IPython.version_info[0] < 9 else "nocolor"
    # instance() and not the constructor: get_ipython() and display() look the shell up as a singleton.
    return Shell.instance(wire=wire, config=config)
