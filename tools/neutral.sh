# Run a command as on a machine on which nobody has set anything: without the variables with which
# a developer's shell changes every Python program, in the C.UTF-8 locale, with no terminal's name,
# and with nothing to read on standard input. `sh tools/neutral.sh COMMAND ARGUMENT...`
set -eu

# PYTHON alone is no variable of Python's: it tells the Makefile and its scripts which one to use.
for name in $(env | sed -n 's/^\(PYTHON[A-Za-z0-9_]\{1,\}\|LC_[A-Z]*\|LANGUAGE\)=.*/\1/p'); do
    unset "$name"
done
unset TERM
export LANG=C.UTF-8
exec "$@" </dev/null
