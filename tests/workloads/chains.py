"""Calls of every kind that Python knows, each leading to a function of its own that does the work.

The interpreter itself tells the truth: the first time that such a function runs on a new way, it writes down through
which calls. Ends at SIGTERM, and writes to the file that TRUTH names: {"pid": N, "ways": {function: [way, ...]}}; a
way is a list of [function, file, line], outermost first, and the line of its last is None.
"""

import asyncio
import ctypes
import functools
import hashlib
import json
import os
import signal
import sys
import threading

LIFETIME_SECONDS = 120
ways = {}
stopped = threading.Event()
sink = [0]


def note():
    """Writes down the way that led to the caller."""
    frame = sys._getframe(1)
    leaf = frame.f_code.co_name
    way = []
    line = None
    while frame is not None:
        code = frame.f_code
        way.append((getattr(code, "co_qualname", code.co_name), code.co_filename, line))
        frame = frame.f_back
        line = frame.f_lineno if frame is not None else None
    ways.setdefault(leaf, set()).add(tuple(reversed(way)))


def work(rounds=8000):
    """The source of a function that works and calls nothing but to note its way once."""
    return f"""
def NAME(_value=0):
    if NAME not in noted:
        noted.add(NAME)
        note()
    value = 1
    for number in range({rounds}):
        value = (value * 31 + number) & 0xffffffff
    return value
"""


class Noted:
    """Which ways are known: every function notes the ways of its first calls."""

    def __init__(self):
        self.left = {}

    def __contains__(self, function):
        return self.left.get(function, 50) == 0

    def add(self, function):
        self.left[function] = self.left.get(function, 50) - 1


noted = Noted()


def worker(name, rounds=8000):
    space = {"noted": noted, "note": note}
    exec(compile(work(rounds).replace("NAME", name), f"<{name}>", "exec"), space)
    return space[name]


recursion_work = worker("recursion_work")
deep_work = worker("deep_work", 20000)
sort_work = worker("sort_work")
compare_work = worker("compare_work")
reduce_work = worker("reduce_work")
map_work = worker("map_work")
hook_work = worker("hook_work")
generator_work = worker("generator_work")
send_work = worker("send_work")
async_work = worker("async_work")
method_work = worker("method_work")
property_work = worker("property_work")
init_work = worker("init_work")
call_work = worker("call_work")
lambda_work = worker("lambda_work")
list_work = worker("list_work")
sum_work = worker("sum_work")
exec_work = worker("exec_work")
wrapped_work = worker("wrapped_work")
finally_work = worker("finally_work")
manager_work = worker("manager_work")
partial_work = worker("partial_work")
nested_work = worker("nested_work")
unicode_work = worker("unicode_work")
callback_work = worker("callback_work")
thread_work = worker("thread_work")


def recurse(depth):
    if depth == 0:
        return recursion_work()
    return recurse(depth - 1)


def deep(depth):
    if depth == 0:
        return deep_work()
    return 1 + deep(depth - 1)


def sort_key(value):
    sort_work()
    return value


def sorts():
    return sorted([3, 1], key=sort_key)


@functools.total_ordering
class Compared:
    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return self.value == other.value

    def __lt__(self, other):
        compare_work()
        return self.value < other.value


def compares():
    return min(Compared(2), Compared(1))


def reduces():
    def step(left, right):
        reduce_work()
        return left + right

    return functools.reduce(step, [1, 2, 3])


def maps():
    return list(map(map_work, [1, 2]))


def on_object(pairs):
    hook_work()
    return pairs


def loads():
    return json.loads(
        '{"a": {"b": 1}}',
        object_hook=on_object,
    )


def inner_generator():
    for _ in range(2):
        generator_work()
        yield 1


def outer_generator():
    yield from inner_generator()


def generates():
    total = 0
    for value in outer_generator():
        total += value
    return total


def receiver():
    received = yield
    while True:
        send_work()
        received = yield received


def sends():
    generator = receiver()
    next(generator)
    return generator.send(1)


async def inner_coroutine():
    async_work()
    await asyncio.sleep(0)
    async_work()


async def outer_coroutine():
    await inner_coroutine()


async def gathers():
    await asyncio.gather(outer_coroutine(), outer_coroutine())


def runs_async():
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(gathers())
    finally:
        loop.close()


class Outer:
    class Inner:
        def method(self):
            return self.static()

        @staticmethod
        def static():
            return Outer.Inner.of_class()

        @classmethod
        def of_class(cls):
            return method_work()

    @property
    def value(self):
        return property_work()

    def __init__(self):
        init_work()

    def __call__(self):
        return call_work()


def applies(function):
    return function(1)


def comprehends():
    return [list_work() for _ in range(2)]


def sums():
    return sum(sum_work() for _ in range(2))


EXECUTED = compile(
    """
def executed():
    return exec_work()


executed()
""",
    "<executed>",
    "exec",
)


def executes():
    exec(EXECUTED, {"exec_work": exec_work})


def wraps(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


@wraps
def wrapped():
    return wrapped_work()


def finally_runs():
    try:
        raise ValueError("expected")
    except ValueError:
        try:
            return None
        finally:
            finally_work()


class Manager:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        manager_work()
        return False


def manages():
    with Manager():
        pass


def nests():
    def middle():
        def innermost():
            return nested_work()

        return innermost()

    return middle()


def größe_函数():
    return unicode_work()


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
def compare(_left, _right):
    callback_work()
    return 0


def calls_back(library=ctypes.CDLL(None)):
    library.qsort((ctypes.c_int * 2)(2, 1), 2, ctypes.sizeof(ctypes.c_int), compare)


def hashes(buffer=b"x" * 400_000):
    """Leaves the interpreter lock to others while it works."""
    return hashlib.sha256(buffer).digest()


def thread_body():
    while not stopped.is_set():
        thread_work()
        hashes()


def drive():
    recurse(20)
    deep(200)
    sorts()
    compares()
    reduces()
    maps()
    loads()
    generates()
    sends()
    runs_async()
    Outer.Inner().method()
    outer = Outer()
    outer.value
    outer()
    applies(lambda value: lambda_work(value))
    comprehends()
    sums()
    executes()
    wrapped()
    finally_runs()
    manages()
    functools.partial(partial_work, 1)()
    nests()
    größe_函数()
    calls_back()


def main():
    signal.alarm(LIFETIME_SECONDS)
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    threads = []
    if "threads" in sys.argv[1:]:
        threads = [threading.Thread(target=thread_body) for _ in range(2)]
    for thread in threads:
        thread.start()
    drive()
    print("ready", flush=True)
    while not stopped.is_set():
        drive()
    for thread in threads:
        thread.join()
    told = {leaf: sorted(known, key=repr) for leaf, known in ways.items()}
    path = os.environ.get("TRUTH")
    if path:
        with open(path, "w") as file:
            json.dump({"pid": os.getpid(), "ways": told}, file)


main()
