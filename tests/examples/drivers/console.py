"""Type the program on standard input into a console, line by line, as an embedded REPL would."""

import code
import sys

console = code.InteractiveConsole()
for line in [*sys.stdin.read().splitlines(), ""]:
    console.push(line)
