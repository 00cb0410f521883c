"""What only workers run, one function for each start method."""


def by_fork(x):
    return x * 2


def by_forkserver(x):
    return x * 3


def by_spawn(x):
    return x * 4


def at_the_end():
    return 1


def with_an_end(x):
    import atexit

    atexit.register(at_the_end)
    return x
