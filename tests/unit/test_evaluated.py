"""No command that is not refused runs an input as code: each is run, in each shell found."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from qmill.command import _evaluated
from qmill.command._template import BadTemplate, Template

SHELLS = [
    path
    for name in ("dash", "bash", "busybox", "ksh93", "mksh", "zsh")
    if (path := shutil.which(name))
]

TEMPLATES = """\
[[ {} -eq 1 ]]
[ {} -eq 1 ]
test {} -gt 1
test -v {}
[[ -v {} ]]
[[ {} == a* ]]
[[ x -lt {} ]]
x={}; [[ x -lt 1 ]]
x="{}"; y=$x; [[ $y -ne 1 ]]
printf -v {} x
printf -v x %s {}; echo $((x))
printf %s {}
printf %d {}
read {} </dev/null
echo {} | { read -r x; echo $((x)); }
echo {} | { read -r x; echo "$x"; }
let x={}
let "x={}"
x={}; let x+=1
declare -i x={}
declare -i x; x={}
typeset -i x={}
a[{}]=1
i={}; a[i]=1
echo ${a[{}]}
i={}; echo ${a[$i]}
echo $[ {} ]
x={}; echo $[x]
unset {}
export {}=1
export x={}
readonly x={}
for ((i={};i<1;i++)); do :; done
for x in {}; do echo $((x)); done
for x in {}; do echo "$x"; done
((x={}))
x={}; ((x++))
x={}; echo $((x))
x=$(echo {}); echo $((x))
: {}; echo $((_))
set -- {}; echo ${x:$1}
echo ${x:{}:1}
echo ${x:{}}
x={}; echo ${y:x}
x={}; echo ${x%.*} ${x:-none}
x={}; echo ${!x}
x={}; echo ${x@P}
wait -n -p {}
declare -n r={}; echo $r
[ -v {} ]
trap {} EXIT
trap "echo {}" EXIT
eval {}
eval "echo {}"
x={}; eval "echo $x"
mapfile -C {} -c 1 < /etc/passwd
PS4={}; set -x; :
RANDOM={}
bind -x {}
complete -F {} x
compgen -W {}
alias x={}; x
sh -c {}
sh -c 'echo {}'
sh -c 'echo "$1"' sh {}
x={}; sh -c "echo $x"
bash -ec "echo {}"
python3 -c 'print("{}")'
cat <<< {}
case {} in a*) echo a;; esac
echo "`echo {}`"
f() { echo "$1"; }; f {}
exit {}
"""

DOCUMENTS = ["sh <<E\necho $1\nE\n", "cat <<E\n$1\nE\n", "x=$1\ncat <<E\n$((x))\nE\n"]

HARMFUL = [
    "a[$(touch hacked)]",
    "x[$(touch hacked)0]",
    "$(touch hacked)",
    "`touch hacked`",
    "x'; touch hacked; '\"; touch hacked; \"",
]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("shell", SHELLS, ids=[os.path.basename(shell) for shell in SHELLS])
def test_an_input_is_never_code_in_what_is_not_refused(shell, tmp_path):
    if "busybox" in shell:  # a name of its own has it be a shell
        os.symlink(shell, tmp_path / "ash")
        shell = str(tmp_path / "ash")
    kind = _evaluated.ask_kind(shell)
    num_run = 0
    for text in [*TEMPLATES.splitlines(), *DOCUMENTS]:
        if _evaluated.why_code(text, "{}", kind):
            continue
        try:
            template = Template(text, shell=shell)
        except BadTemplate:
            continue
        for given in HARMFUL:
            num_run += 1
            subprocess.run(template(given), input=b"\n", capture_output=True, timeout=60)
            assert not os.path.exists("hacked"), (text, given)
    assert num_run > 50


@pytest.mark.parametrize("kind", [_evaluated.PLAIN, _evaluated.BASH, _evaluated.OTHER])
@pytest.mark.parametrize(
    "text",
    [
        "gzip -k {}",
        "x={}; echo ${x%.*}",
        'tmp=$(mktemp); trap "rm -f $tmp" EXIT; cp {} $tmp',
        "i=0; while [ $i -lt 3 ]; do i=$((i+1)); done; echo {}",
        "read -r a < {}; echo $a",
        "case {} in *.txt) echo text;; (b) echo b;; esac; echo $((1+1))",
        "sh -c 'ls \"$1\"' sh {}",
        "python3 -c 'import sys; print(sys.argv)' {}",
        "ssh {} uptime",
        "[ -f {} ] && [[ {} == *.x ]]",
        "# eval {}",
    ],
)
def test_a_command_that_keeps_its_input_data_is_not_refused(text, kind):
    assert not _evaluated.why_code(text, "{}", kind)


def test_a_shell_is_known_by_what_it_does(tmp_path):
    if shutil.which("dash") is None or shutil.which("bash") is None:
        pytest.skip("dash and bash are needed")
    assert _evaluated.ask_kind("dash") == _evaluated.PLAIN
    os.symlink(shutil.which("bash"), tmp_path / "dash")
    assert _evaluated.ask_kind(str(tmp_path / "dash")) == _evaluated.BASH
