"""The one error of the stack: it says in one line what is missing or wrong, and in another how to mend it."""


class StackError(Exception):
    """The local stack cannot go on. `what` says what is missing, `remedy` how to get it."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}\n{remedy}")
        self.what = what
        self.remedy = remedy
