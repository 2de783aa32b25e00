"""What a build must look like, judged by Bazel's own execution log and summary line."""

import re

from cask_server import expect

ACTIONS_MIN = 60
# Lines the workspace's actions print; Bazel shows them again when the action is a hit.
MARKERS = ("CASK-FIXTURE-STDOUT", "CASK-FIXTURE-STDERR", "CASK-FIXTURE-LONG-END")
# How Bazel 4 begins its complaints about a cache it could not use.
CACHE_COMPLAINTS = ("WARNING: Reading from Remote Cache", "WARNING: Writing to Remote Cache", "WARNING: Remote Cache")


def expect_same(what, first, second):
    """Both are mappings from a path to something comparable."""
    missing, extra = sorted(first.keys() - second.keys()), sorted(second.keys() - first.keys())
    changed = sorted(path for path in first.keys() & second.keys() if first[path] != second[path])
    expect(
        not (missing or extra or changed),
        f"{what}: {len(missing)} missing {missing[:5]}, {len(extra)} extra {extra[:5]}, "
        f"{len(changed)} changed {changed[:5]}",
    )


def expect_healthy(build):
    complaints = [line for line in build.text.splitlines() if line.startswith(CACHE_COMPLAINTS)]
    expect(not complaints, f"Bazel complains about the cache: {complaints[:3]}")
    for marker in MARKERS:
        expect(marker in build.text, f"an action's output {marker} was not shown")


def expect_all_local(build):
    """The first build on an empty store: were anything a hit, the second build's hits would prove nothing."""
    expect_healthy(build)
    expect(len(build.spawns) >= ACTIONS_MIN, f"only {len(build.spawns)} actions, expected {ACTIONS_MIN} or more")
    expect(build.hits() == 0, f"{build.hits()} hits on an empty store")
    unfit = [spawn["mnemonic"] for spawn in build.spawns if not (spawn["cacheable"] and spawn["remotable"])]
    expect(not unfit, f"actions that may not be cached: {unfit[:5]}")


def expect_all_hits(build, first, downloaded=True):
    """The second build. `downloaded` is false where outputs stay on the server: Bazel then knows their names alone."""
    expect_healthy(build)
    missed = [spawn["listedOutputs"] for spawn in build.spawns if spawn["runner"] != "remote cache hit"]
    expect(not missed, f"{len(missed)} of {len(build.spawns)} actions were no hits: {missed[:5]}")
    expect(len(build.spawns) == len(first.spawns), f"{len(build.spawns)} actions after {len(first.spawns)}")
    counts = {kind: int(count) for count, kind in re.findall(r"(\d+) ([a-z -]+)", build.summary.partition(":")[2])}
    internal = counts.pop("internal", 0)
    expect(
        counts == {"remote cache hit": len(first.spawns)},
        f"Bazel's summary is not {len(first.spawns)} hits beside {internal} internal: {build.summary}",
    )
    if downloaded:
        expect_same("digests in the execution log", first.output_digests(), build.output_digests())
