"""How often the garbage collector looks for cycles, in processes that handle events by the thousand."""

import gc


def tune_garbage_collector() -> None:
    """A batch makes tens of thousands of objects that live as long as it does, and hardly any cycle.

    The default looks for cycles every 700 new objects, an eighth of all the time, and a third of it where many rows are
    kept; what start-up made is never garbage.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
