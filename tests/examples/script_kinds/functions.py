# Functions, and what is made of functions.
import asyncio
import collections
import concurrent.futures
import contextlib
import functools
import inspect
import operator
import re
import sys
import typing

from .declare import kind

FACTOR = 3


@kind("a function that reads a global", 4, 12)
def job_global(x):
    return FACTOR * x


COUNT = 0


def count_up():
    global COUNT
    COUNT += 1


@kind("a global that two functions rebind", 4, 2)
def job_rebound_global(x):
    global COUNT
    COUNT = 0
    count_up()
    count_up()
    return COUNT


square = lambda x: x * x  # noqa: E731


@kind("a lambda", 4, 16)
def job_lambda(x):
    return square(x)


def make_adder(amount):
    def add(x):
        return x + amount

    return add


add_five = make_adder(5)


@kind("a closure", 4, 9)
def job_closure(x):
    return add_five(x)


def make_counter():
    total = 0

    def count(x):
        nonlocal total
        total += x

    def read():
        return total

    return count, read


count_by, read_count = make_counter()


@kind("two closures of one nonlocal variable", 4, 8)
def job_nonlocal(x):
    before = read_count()
    count_by(x)
    count_by(x)
    return read_count() - before


def make_factorial():
    def factorial(x):
        return x * factorial(x - 1) if x else 1

    return factorial


inner_factorial = make_factorial()


@kind("a recursive inner function", 4, 24)
def job_inner_recursion(x):
    return inner_factorial(x)


def is_even(x):
    return x == 0 or is_odd(x - 1)


def is_odd(x):
    return x != 0 and is_even(x - 1)


@kind("functions that call each other", 4, True)
def job_mutual_recursion(x):
    return is_even(x)


@kind("the job itself recursive", 4, 10)
def job_recursive(x):
    return x + job_recursive(x - 1) if x else 0


def with_defaults(x, by=(1, 2), *, sign=-1, key=lambda x: x + 1):
    return key(x) * sign + sum(by)


@kind("keyword-only defaults, a lambda as a default", 4, -2)
def job_defaults(x):
    return with_defaults(x)


def annotated(x: "int", y: collections.abc.Sequence[int] = ()) -> "list[int]":
    """Give a list."""
    return [x, *y]


annotated.version = (1, 2)


@kind(
    "a function's docstring, attributes, annotations",
    4,
    ("Give a list.", (1, 2), collections.abc.Sequence[int], "(x: 'int', y: "),
)
def job_function_attributes(x):
    signature = str(inspect.signature(annotated))
    return (
        annotated.__doc__,
        annotated.version,
        annotated.__annotations__["y"],
        signature[: signature.index("col")],
    )


def count_down(x):
    while x:
        yield x
        x -= 1


@kind("a generator function", 3, [3, 2, 1])
def job_generator_function(x):
    return list(count_down(x))


async def slowly(x):
    await asyncio.sleep(0)
    return x + 1


@kind("a coroutine function", 4, 5)
def job_coroutine_function(x):
    return asyncio.run(slowly(x))


async def slow_count(x):
    for number in range(x):
        yield await slowly(number)


@kind("an async generator function", 3, [1, 2, 3])
def job_async_generator(x):
    async def collect():
        return [number async for number in slow_count(x)]

    return asyncio.run(collect())


@contextlib.contextmanager
def doubled(x):
    yield 2 * x


@kind("a contextmanager function", 4, 8)
def job_contextmanager(x):
    with doubled(x) as result:
        return result


plus_two = functools.partial(operator.add, 2)


@kind("functools.partial of a builtin", 4, 6)
def job_partial(x):
    return plus_two(x)


defaults_of_ten = functools.partial(with_defaults, by=(10,))


@kind("functools.partial of a function of the script", 4, 5)
def job_partial_of_script(x):
    return defaults_of_ten(x)


class NamedPartial(functools.partial):
    label = "named"


named_partial = NamedPartial(pow, 2)


@kind("a subclass of partial", 4, (16, "named", "NamedPartial"))
def job_partial_subclass(x):
    return named_partial(x), named_partial.label, type(named_partial).__name__


def logged(function):
    @functools.wraps(function)
    def wrapper(*args):
        return "logged", function(*args)

    return wrapper


@logged
def wrapped(x):
    return x + 1


@kind("functools.wraps: the original has no name of its own", 4, ("logged", 5, 5, "wrapped"))
def job_wraps(x):
    return *wrapped(x), wrapped.__wrapped__(x), wrapped.__name__


@kind("a decorated job", 4, ("logged", 5))
@logged
def job_decorated(x):
    return x + 1


class Retrying:
    def __init__(self, function):
        functools.update_wrapper(self, function)
        self.function = function
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return self.function(x)


@Retrying
def retried(x):
    return x + 1


@kind("a decorator that gives a callable object", 4, (5, True, "retried"))
def job_callable_object(x):
    return retried(x), retried.calls > 0, retried.__name__


@functools.lru_cache
def cached(x):
    return x * 3


@kind("lru_cache", 4, (12, 12, 1))
def job_lru_cache(x):
    cached.cache_clear()
    return cached(x), cached(x), cached.cache_info().hits


@kind("lru_cache on the job itself", 4, 12)
@functools.lru_cache
def job_is_cached(x):
    return x * 3


@functools.cache
def fibonacci(x):
    return fibonacci(x - 1) + fibonacci(x - 2) if x > 1 else x


@kind("a recursive function with cache", 30, 832040)
def job_cache_recursive(x):
    return fibonacci(x)


@functools.lru_cache(maxsize=2, typed=True)
def cached_typed(x):
    """Give the type."""
    return type(x).__name__


cached_typed("filled")


@kind(
    "lru_cache with maxsize and typed, filled",
    4,
    ("int", "float", {"maxsize": 2, "typed": True}, "Give the type.", 2, "float"),
)
def job_lru_parameters(x):
    cached_typed.cache_clear()
    return (
        cached_typed(x),
        cached_typed(float(x)),
        cached_typed.cache_parameters(),
        cached_typed.__doc__,
        cached_typed.cache_info().currsize,
        cached_typed.__wrapped__(1.0),
    )


class WithCaches:
    calls = 0

    @functools.lru_cache
    def method(self, x):
        type(self).calls += 1
        return x + 1

    @staticmethod
    @functools.cache
    def static(x):
        return x + 2

    @classmethod
    @functools.lru_cache(maxsize=None)
    def of_class(cls, x):
        return cls, x + 3


@kind("lru_cache on methods", 4, (5, 5, 1, 6, 7))
def job_lru_methods(x):
    WithCaches.calls = 0
    one = WithCaches()
    return (
        one.method(x),
        one.method(x),
        WithCaches.calls,
        WithCaches.static(x),
        WithCaches.of_class(x)[1],
    )


@functools.singledispatch
def show(x):
    return "object"


@show.register
def _(x: int):
    return f"int {x}"


@show.register(list)
@show.register(tuple)
def show_items(x):
    return [show(item) for item in x]


class Shown:
    pass


@show.register(Shown)
def show_own(x):
    return "Shown"


show(1), show(Shown())


@kind("singledispatch, also for a class of the script", 4, ["int 4", "Shown", ["int 4"], "object"])
def job_singledispatch(x):
    return show([x, Shown(), (x,), 0.5])


@kind("singledispatch as the job", 4, "int")
@functools.singledispatch
def job_is_dispatched(x):
    return "object"


@job_is_dispatched.register
def job_for_int(x: int):
    return "int"


job_is_dispatched("")


@kind("registering with singledispatch in the job", 4, ("object", "a dict"))
def job_register(x):
    before = show(0.5)
    show.register(dict, lambda x: "a dict")
    return before, show({})


class Dispatching:
    @functools.singledispatchmethod
    def of(self, x):
        return "object"

    @of.register
    def _(self, x: int):
        return "int"

    @functools.singledispatchmethod
    @classmethod
    def of_class(cls, x):
        return cls.__name__

    @of_class.register
    @classmethod
    def _(cls, x: int):
        return f"{cls.__name__} of int"


Dispatching().of(2)


@kind("singledispatchmethod", 4, ("int", "object", "Dispatching of int", "Dispatching"))
def job_singledispatchmethod(x):
    one = Dispatching()
    return one.of(x), one.of(""), Dispatching.of_class(x), Dispatching.of_class("")


class Lazy:
    def __init__(self, x):
        self.x = x

    @functools.cached_property
    def value(self):
        """Give the value."""
        self.x += 1
        return self.x


@kind(
    "cached_property",
    Lazy(4),
    lambda r: r[:3] == (5, 5, "Give the value.") and type(r[3]) is Lazy and r[3].value == 5,
)
def job_cached_property(lazy):
    return lazy.value, lazy.value, Lazy.value.__doc__, lazy


class Switch:
    def __init__(self):
        self.state = None

    def set_state(self, state):
        self.state = state
        return self

    set_on = functools.partialmethod(set_state, "on")


@kind("partialmethod", None, lambda r: type(r) is Switch and r.state == "on")
def job_partialmethod(_):
    return Switch().set_on()


def get_celsius(self):
    return self.kelvin - 273


def set_celsius(self, value):
    self.kelvin = value + 273


class Temperature:
    kelvin = 0
    celsius = property(get_celsius, set_celsius, doc="In degrees.")

    @property
    def rounded(self):
        return round(self.kelvin, -1)


@kind("property made of functions", 7, (280, 7, 280, "In degrees."))
def job_property(x):
    one = Temperature()
    one.celsius = x
    return one.kelvin, one.celsius, one.rounded, Temperature.celsius.__doc__


class traced_property(property):
    traces = ()


class Traced:
    @traced_property
    def value(self):
        """Give it."""
        return 7

    value.traces = ("read",)


@kind("a subclass of property", 1, (7, ("read",), "Give it."))
def job_property_subclass(x):
    return Traced().value, vars(Traced)["value"].traces, Traced.value.__doc__


class own_classmethod(classmethod):
    pass


class own_staticmethod(staticmethod):
    label = "own"


class OwnMethods:
    @own_classmethod
    def of_class(cls, x):
        return cls.__name__, x

    @own_staticmethod
    def static(x):
        return x + 1


@kind("subclasses of classmethod and staticmethod", 4, ("OwnMethods", 4, 5, "own"))
def job_method_subclasses(x):
    return *OwnMethods.of_class(x), OwnMethods.static(x), vars(OwnMethods)["static"].label


class Account:
    opened = 0

    def __init__(self, balance):
        self.balance = balance

    def pay(self, x):
        return self.balance - x

    @classmethod
    def open(cls, x):
        return cls(x)

    @staticmethod
    def round(x):
        return round(x)


account_pay = Account(10).pay
account_open = Account.open


@kind("a bound method", 4, 6)
def job_bound_method(x):
    return account_pay(x)


@kind("a bound classmethod", 4, lambda r: type(r) is Account and r.balance == 4)
def job_bound_classmethod(x):
    return account_open(x)


@kind("a bound method as the argument", Account(10).pay, 7)
def job_argument_method(pay):
    return pay(3)


@kind("a lambda as the argument", lambda x: x + FACTOR, 7)
def job_argument_lambda(function):
    return function(4)


@kind("a function as the result", 4, lambda r: r(2) == 6 and r.__name__ == "add")
def job_result_function(x):
    return make_adder(x)


get_balance = operator.attrgetter("balance")
first_item = operator.itemgetter(0)
call_pay = operator.methodcaller("pay", 1)


@kind("operator.attrgetter, itemgetter, methodcaller", 4, (4, 4, 3))
def job_operators(x):
    return get_balance(Account(x)), first_item([x]), call_pay(Account(x))


@functools.total_ordering
class Version:
    def __init__(self, number):
        self.number = number

    def __eq__(self, other):
        return self.number == other.number

    def __lt__(self, other):
        return self.number < other.number


@kind("total_ordering", Version(4), lambda r: r[:2] == (True, True) and r[2] == Version(5))
def job_total_ordering(version):
    return version >= Version(3), version <= Version(4), Version(5)


def compare_lengths(left, right):
    return len(left) - len(right)


by_length = functools.cmp_to_key(compare_lengths)


@kind("functools.cmp_to_key", ["aaa", "b"], ["b", "aaa"])
def job_cmp_to_key(items):
    return sorted(items, key=by_length)


class doubling(contextlib.ContextDecorator):
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


@doubling()
def in_context(x):
    return 2 * x


@kind("a ContextDecorator", 4, 8)
def job_context_decorator(x):
    return in_context(x)


@typing.overload
def halved(x: int) -> int: ...


@typing.overload
def halved(x: str) -> str: ...


def halved(x):
    return x[: len(x) // 2] if isinstance(x, str) else x // 2


@kind("typing.overload", 4, (2, "a"))
def job_overload(x):
    return halved(x), halved("ab")


BASE_OF_LOCAL = collections.UserDict
DEFAULT_OF_LOCAL = 7


def make_local():
    class Local(BASE_OF_LOCAL):
        default = DEFAULT_OF_LOCAL  # a class body reads globals by another instruction

        def __missing__(self, key):
            return self.default

    return Local


@kind("a class whose body reads globals, made in the job", 4, 7)
def job_makes_class(x):
    return make_local()()[x]


@kind("a submodule that the script has imported", 4, 5)
def job_submodule(x):
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        return threads.submit(operator.add, x, 1).result()


def tell(text, file=sys.stdout):
    return file is sys.stdout and text


@kind("sys.stdout as a default", "text", "text")
def job_stdout_default(text):
    return tell(text)


word = re.compile(r"\w+", re.ASCII)


@kind("a compiled pattern", "two words", ["two", "words"])
def job_pattern(text):
    return word.findall(text)


class ScriptError(Exception):
    pass


def fail(x):
    raise ScriptError(x)


@kind("an exception of the script, caught in the job", 4, (4,))
def job_catches(x):
    try:
        fail(x)
    except ScriptError as error:
        return error.args


handlers = {"double": lambda x: 2 * x, "square": square, "add": add_five}


@kind("a dict of functions", 4, [8, 16, 9])
def job_dict_of_functions(x):
    return [handler(x) for handler in handlers.values()]


class Registry:
    def __init__(self):
        self.handlers = {}

    def __call__(self, function):
        self.handlers[function.__name__] = function
        return function


registry = Registry()


@registry
def registered(x):
    return x + 1


@kind("a registry of decorated functions", 4, (5, True))
def job_registry(x):
    return registry.handlers["registered"](x), registry.handlers["registered"] is registered


@kind("a function that returns itself", 4, lambda r: r is job_returns_itself)
def job_returns_itself(x):
    return job_returns_itself


def make_linked():
    def ping(x):
        return pong(x - 1) if x else "ping"

    def pong(x):
        return ping(x - 1) if x else "pong"

    return ping, pong


ping, pong = make_linked()


@kind("inner functions that call each other", 3, ("pong", "ping"))
def job_linked(x):
    return ping(x), pong(x)


def make_unbound():
    def early():
        return late

    if len(sys.argv) > 99:
        late = 1
    return early


early = make_unbound()


@kind("a closure with an unbound variable", None, "NameError")
def job_unbound(_):
    try:
        return early()
    except NameError as error:
        return type(error).__name__
