"""Every error a user can cause: its code, what was wanted, what was got, where, and a hint.

The CLI prints these without a traceback and exits with the code of their family (`EXIT_CODES`).
"""

from __future__ import annotations

#: One line per code. `docs/reference/errors.md` is generated from this table.
CODES: dict[str, str] = {
    # CC1xx: the command line and the pass list
    "CC100": "the command line or an argument is not understood",
    "CC101": "no pass of that name is installed",
    "CC102": "a pass option is unknown or out of bounds",
    "CC103": "a list of passes or a sum of objectives cannot be parsed",
    "CC104": "the passes are in an order that cannot work",
    "CC105": "a pass needs something the run does not have (data, labels)",
    "CC106": "a plugin is broken (duplicate name, failing import, wrong type)",
    "CC107": "no plugin of that kind and name is installed",
    # CC2xx: the model
    "CC200": "the file is no model that compressc can read",
    "CC201": "the file would run code when loaded",
    "CC202": "the model cannot be traced",
    "CC203": "example inputs are missing",
    "CC204": "an input has the wrong shape or dtype",
    "CC205": "the weights hold NaN or infinity",
    "CC206": "the traced model does not compute what the module computes",
    "CC207": "a student's inputs or outputs are not the teacher's",
    "CC208": "a teacher's inputs or outputs are not those of the run's model",
    # CC3xx: the data
    "CC300": "the data set cannot be read",
    "CC301": "the data set does not fit the model",
    "CC302": "a sample cannot be read, or is not what it was",
    "CC303": "a teacher's answers are of something else, or not all there",
    "CC304": "a table of latencies is damaged, or of something else",
    # CC4xx: the IR
    "CC400": "the graph is not well formed",
    "CC401": "a recorded type is not the derived one",
    "CC402": "graph text cannot be parsed",
    "CC403": "a bundle is damaged",
    # CC5xx: passes and back ends at work
    "CC500": "a pass broke the graph",
    "CC501": "a pass that declares itself exact changed the outputs",
    "CC502": "training diverged",
    "CC503": "no back end could write a file",
    "CC504": "an emitted file does not compute what the graph computes",
    "CC505": "a quality gate was missed",
    "CC506": "a term of a loss has no effect on what is trained",
    "CC507": "the user's own module cannot hold what the graph computes",
    # CC6xx: the machine
    "CC600": "the output folder cannot be written",
    "CC601": "a pass failed inside a library",
    "CC602": "a kernel did not start on the device",
    "CC603": "the device asked for is not there",
    # CC7xx: the run is done, and the files are written, but not all that was asked for
    "CC700": "some of what was asked for did not come about",
}

#: Exit code of the CLI by family. 2 is what click and argparse use for a bad command line.
EXIT_CODES: dict[str, int] = {"1": 2, "2": 3, "3": 4, "4": 5, "5": 6, "6": 7, "7": 8}

#: Characters of one text of an error.
LONGEST = 240


class CompresscError(Exception):
    """An error a user can understand and mend.

    Args:
        code: a key of `CODES`.
        wanted: what is wrong, in terms of what was wanted.
        got: what was found instead.
        where: the op, file, option or character the error points at.
        hint: what to do about it.

    What comes from outside may be of any length and hold any character: each text is kept to
    `LONGEST` characters, and what a terminal would not show as text is escaped.
    """

    def __init__(
        self, code: str, wanted: str, *, got: str = "", where: str = "", hint: str = ""
    ) -> None:
        if code not in CODES:
            raise KeyError(f"unknown error code {code}")
        self.code = code
        self.wanted, self.got, self.where, self.hint = map(plain, (wanted, got, where, hint))
        super().__init__(str(self))

    @property
    def exit_code(self) -> int:
        """The process exit code of this error's family."""
        return EXIT_CODES[self.code[2]]

    def hinted(self, hint: str) -> CompresscError:
        """The same error with another hint, from somebody who knows more."""
        return CompresscError(self.code, self.wanted, got=self.got, where=self.where, hint=hint)

    def at(self, where: str) -> CompresscError:
        """The same error with its place, from somebody who knows it."""
        return CompresscError(self.code, self.wanted, got=self.got, where=where, hint=self.hint)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.code, self.wanted, self.got, self.where, self.hint))

    def __str__(self) -> str:
        """`[CC102] wanted (got ...) at where; hint: ...`, on one line."""
        text = f"[{self.code}] {self.wanted}"
        if self.got:
            text += f" (got {self.got})"
        if self.where:
            text += f" at {self.where}"
        if self.hint:
            text += f"; hint: {self.hint}"
        return text


def plain(text: str) -> str:
    """Text on one line, short enough to read, without control characters or half characters.

    The middle of a long one is left out: what matters is at the ends of a path or a list.
    """
    if len(text) > 4 * LONGEST:  # first, because the rest takes time by the character
        text = f"{text[: 2 * LONGEST]}\N{HORIZONTAL ELLIPSIS}{text[-2 * LONGEST :]}"
    text = " ".join(text.split())
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _escaped(c) for c in text)
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[:half]}\N{HORIZONTAL ELLIPSIS}{text[1 - half :]}"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def first_line(error: BaseException) -> str:
    """An exception on one line: its class and the first line of its message."""
    try:
        message = str(error)
    except Exception as broken:  # a stranger's exception may not even have a text
        message = f"no text, {type(broken).__name__}"
    lines = [line.strip() for line in message[: 4 * LONGEST].splitlines() if line.strip()]
    return f"{type(error).__name__}: {plain(lines[0][:200])}" if lines else type(error).__name__


def _rebuild(code: str, wanted: str, got: str, where: str, hint: str) -> CompresscError:
    return CompresscError(code, wanted, got=got, where=where, hint=hint)
