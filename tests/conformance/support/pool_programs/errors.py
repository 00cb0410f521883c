"""What goes wrong in calls of a pool: what cannot be sent, and exceptions of every kind."""

import multiprocessing
import sys
import threading
import traceback


class TwoArguments(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")
        self.first, self.second = first, second

    def __reduce__(self):
        return TwoArguments, (self.first, self.second)


class Unsendable:
    def __reduce__(self):
        raise TypeError("stays here")


def fail(kind):
    if kind == "zero":
        return 1 / 0
    if kind == "two":
        raise TwoArguments(1, 2)
    if kind == "chain":
        try:
            {}["key"]
        except KeyError as error:
            raise ValueError("chained") from error
    if kind == "lock":
        return threading.Lock()
    if kind == "unsendable":
        return Unsendable()
    if kind == "raises unsendable":
        raise ValueError(Unsendable())
    if kind == "group":
        raise ExceptionGroup("several", [ValueError(1), KeyError(2)])
    if kind == "os":
        open("/no/such/file")
    if kind == "unicode":
        b"\xff".decode()
    if kind == "timeout":
        raise TimeoutError("of the call")
    if kind == "mp timeout":
        raise multiprocessing.TimeoutError("of the call")
    return kind


KINDS = [
    "zero",
    "two",
    "chain",
    "lock",
    "unsendable",
    "group",
    "os",
    "unicode",
    "timeout",
    "fine",
] + ["mp timeout", "raises unsendable"]


def tell(what, call, *args, **kwargs):
    try:
        print(what, call(*args, **kwargs))
    except Exception as error:
        text = str(error).partition("\n")[0]
        if isinstance(error, multiprocessing.pool.MaybeEncodingError):
            text = ""
        print(what, [each.__name__ for each in type(error).__mro__], text)
        return error


def main(method):
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        for kind in KINDS:
            error = tell(kind, pool.apply, fail, (kind,))
            if error is not None:
                cause = error.__cause__
                print("   ", "RemoteTraceback" in repr(cause), "in fail" in str(cause))
            tell(kind, pool.map, fail, ["fine", kind, "fine"], 1)
            tell(kind, pool.map, fail, ["fine", kind, "fine"], 3)
            tell(kind, lambda kind=kind: list(pool.imap(fail, ["fine", kind])))
            results = pool.imap(fail, [kind, "after"])
            tell(kind, next, results)
            tell(kind, next, results)
            tell(kind, next, results)
            told = []
            result = pool.apply_async(
                fail, (kind,), callback=told.append, error_callback=told.append
            )
            result.wait()
            print(kind, [type(each).__name__ for each in told], result.successful())
        for args in ([Unsendable()], [threading.Lock()]):
            tell("argument", pool.apply, fail, args)
            tell("argument", pool.map, fail, args)
            tell("argument", pool.map, fail, ["a", *args, "b"], 3)
            tell("argument", pool.starmap, fail, [args])
            results = pool.imap(fail, ["a", *args, "b"])
            for _ in range(3):
                tell("argument", next, results)
        try:
            pool.apply(fail, ("zero",))
        except ZeroDivisionError:
            text = traceback.format_exc()
            print("RemoteTraceback" in text, "in fail" in text, "1 / 0" in text)
        print(pool.map(fail, ["fine"] * 3))


if __name__ == "__main__":
    main(sys.argv[1])
