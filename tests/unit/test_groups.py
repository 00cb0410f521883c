"""The files of a process's control groups, as a kernel shows them."""

from __future__ import annotations

import os

from qmill.system import control_groups

FILES = {
    "proc/self/cgroup": "4:memory:/job/a\n3:cpu:/elsewhere\n0::/user/b\n",
    "proc/self/mountinfo": (
        "31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "30 24 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    ),
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "100000000\n",
    "sys/fs/cgroup/memory/job/a/memory.limit_in_bytes": "200000000\n",
    "sys/fs/cgroup/memory/elsewhere/memory.limit_in_bytes": "1\n",
    "sys/fs/cgroup/unified/user/memory.max": "max\n",
}


def test_the_memory_of_each_group_and_of_those_above(tmp_path):
    for path, text in FILES.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert [
        tuple(os.path.relpath(os.fsdecode(name), tmp_path / "sys/fs/cgroup") for name in files)
        for files in control_groups.memory_files(str(tmp_path))
    ] == [
        *(
            tuple(
                f"memory/{group}memory.{name}"
                for name in ("limit_in_bytes", "usage_in_bytes", "stat")
            )
            for group in ("job/a/", "job/", "")
        ),
        tuple(f"unified/user/memory.{name}" for name in ("max", "current", "stat")),
    ]


def test_a_system_without_groups(tmp_path):
    assert control_groups.memory_files(str(tmp_path)) == []
