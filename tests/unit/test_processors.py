"""How many processors there are, by files as a kernel shows them."""

from __future__ import annotations

import os

import pytest

from qmill.system import processors

V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
CONTAINER = "31 25 0:27 /docker/a1 /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"


def quotas(folder, files):
    for path, text in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return sorted(processors.quotas(str(folder)))


@pytest.mark.parametrize("name", ["a/b", "a", ""])
def test_the_quota_of_each_group_from_the_own_one_to_the_top(tmp_path, name):
    files = {
        "proc/self/cgroup": f"0::/{name}\n",
        "proc/self/mountinfo": V2,
        "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
    }
    assert quotas(tmp_path, files) == ([1.5] if name else [])


def test_nested_quotas(tmp_path):
    files = {
        "proc/self/cgroup": "0::/a/b\n",
        "proc/self/mountinfo": V2,
        "sys/fs/cgroup/a/cpu.max": "50000 100000\n",
        "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n",
    }
    assert quotas(tmp_path, files) == [0.5, 4.0]


def test_a_quota_of_version_1(tmp_path):
    files = {
        "proc/self/cgroup": "4:memory:/a\n3:cpu,cpuacct:/a\n0::/\n",
        "proc/self/mountinfo": V1,
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "250000\n",
        "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
    }
    assert quotas(tmp_path, files) == [2.5]


def test_a_container_sees_its_own_group_at_the_mount(tmp_path):
    files = {
        "proc/self/cgroup": "3:cpu:/docker/a1\n",
        "proc/self/mountinfo": CONTAINER,
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    }
    assert quotas(tmp_path, files) == [2.0]


def test_no_such_files(tmp_path):
    assert quotas(tmp_path, {}) == []


@pytest.mark.parametrize(("quota", "number"), [(0.1, 1), (1.5, 2), (3.0, 3), (99.0, 4)])
def test_the_least_counts_and_is_rounded_up(monkeypatch, quota, number):
    monkeypatch.setattr(os, "process_cpu_count", lambda: 4, raising=False)
    monkeypatch.setattr(processors, "quotas", lambda: [8.0, quota])
    assert processors.count() == number
