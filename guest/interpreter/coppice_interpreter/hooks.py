"""Changes to other libraries, made when user code imports them and not before."""

import importlib.abc
import importlib.util
import sys


class _Hook(importlib.abc.MetaPathFinder):
    """Calls `action(module)` once the module of that name has been executed."""

    def __init__(self, actions):
        self._actions = dict(actions)

    def find_spec(self, name, path=None, target=None):
        action = self._actions.pop(name, None)
        if action is None:
            return None
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            self._actions[name] = action
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            try:
                action(module)
            except Exception:
                pass

        spec.loader.exec_module = exec_module
        return spec


def install(actions):
    """`actions`: module name -> function of the module. A module that is there already is changed at once."""
    waiting = {}
    for name, action in actions.items():
        module = sys.modules.get(name)
        if module is None:
            waiting[name] = action
        else:
            action(module)
    sys.meta_path.insert(0, _Hook(waiting))


def show_saved_images(module):
    """PIL.Image: `image.show()` displays, and so does `image.save("path")`, as E2B's interpreter does."""
    from IPython.display import display

    image_class = module.Image
    save = image_class.save

    def save_and_display(self, fp, format=None, **params):
        save(self, fp, format, **params)
        # matplotlib saves its figures through this method; the figure itself is displayed by its own rule.
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if not caller.startswith(("matplotlib", "PIL")) and (isinstance(fp, str) or hasattr(fp, "__fspath__")):
            display(self)

    save_and_display.__doc__ = save.__doc__
    image_class.save = save_and_display
    image_class.show = lambda self, *_args, **_kwargs: display(self)


def remember_boxes(module):
    """matplotlib.axes._axes: a box plot leaves only lines behind, so its statistics are kept on the axes."""
    axes_class = module.Axes
    bxp = axes_class.bxp

    def bxp_and_remember(self, bxpstats, positions=None, *args, **kwargs):
        artists = bxp(self, bxpstats, positions, *args, **kwargs)
        places = list(positions) if positions is not None else list(range(1, len(bxpstats) + 1))
        self.__dict__.setdefault("_coppice_boxes", []).extend(zip(places, bxpstats))
        return artists

    bxp_and_remember.__doc__ = bxp.__doc__
    axes_class.bxp = bxp_and_remember
