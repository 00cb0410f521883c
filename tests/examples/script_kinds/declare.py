KINDS = {}


def kind(name, argument=None, expected=None, refused=None):
    """Declare that a job gives this result: a value, or a function that says whether it is right.

    Args:
        name: What the table calls the kind.
        argument: What the job is called with.
        expected: Its result, of the same type, or a function of the result.
        refused: What cannot go by value: the name that the error has to tell, of a global or of an
            attribute.
    """

    def declare(job):
        assert name not in KINDS, name
        KINDS[name] = job, argument, expected, refused
        return job

    return declare


def is_right(result, expected):
    if callable(expected) and not isinstance(expected, type):
        return expected(result)
    return type(result) is type(expected) and result == expected
