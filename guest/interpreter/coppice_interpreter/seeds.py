"""Which generators user code has seeded itself: it expects their numbers to go on alike in every fork of the sandbox."""

import functools
import pickle

# Of each module with a generator of its own: the functions that seed it, save its state, and set a state.
FUNCTIONS = {
    "random": (("seed",), ("getstate",), ("setstate",)),
    "numpy.random": (("seed", "set_bit_generator"), ("get_state",), ("set_state",)),
    "torch": (("manual_seed", "seed"), ("get_rng_state",), ("set_rng_state",)),
}
# Saved states that are known again. One that was pushed out counts as the user's when it is set.
SAVED = 16


class Seeds:
    """
    Wraps FUNCTIONS, and nothing that draws a number. A state that is set again stands as it stood when it was saved:
    libraries save, seed, work, and put back what was there.
    """

    def __init__(self):
        self._given = set()
        self._saved = {}

    def given(self, name):
        return name in self._given

    def forget(self, name):
        """What it has now is not the user's."""
        self._given.discard(name)

    def actions(self):
        """Module name -> what is done to it, as hooks.install takes it."""
        return {name: self._wrap for name in FUNCTIONS}

    def _wrap(self, module):
        for names, note in zip(FUNCTIONS[module.__name__], (self._seeded, self._stated, self._restored)):
            for name in names:
                if hasattr(module, name):
                    setattr(module, name, _noted(module, name, note))

    def _seeded(self, module, _result, args, kwargs):
        values = args or [kwargs[key] for key in ("a", "seed", "bitgen") if key in kwargs]
        self._set(module, bool(values) and values[0] is not None)

    def _stated(self, module, state, _args, _kwargs):
        self._saved[_digest(module, state)] = self.given(module)
        if len(self._saved) > SAVED:
            del self._saved[next(iter(self._saved))]

    def _restored(self, module, _result, args, kwargs):
        state = args[0] if args else next(iter(kwargs.values()))
        self._set(module, self._saved.get(_digest(module, state), True))

    def _set(self, module, is_given):
        if is_given:
            self._given.add(module)
        else:
            self._given.discard(module)


def _noted(module, name, note):
    function = getattr(module, name)

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        result = function(*args, **kwargs)
        try:
            note(module.__name__, result, args, kwargs)
        except Exception:
            # What cannot be judged changes nothing.
            pass
        return result

    # Pickled by this name; the function may be a method of an object that is hidden.
    wrapper.__module__ = module.__name__
    wrapper.__name__ = wrapper.__qualname__ = name
    return wrapper


def _digest(module, state):
    return hash((module, pickle.dumps(state)))
