"""A made-up C++ code base and its history: what `record` builds, revision by revision.

The code base is a dictionary from path to text. `Module`s depend on earlier modules, so an edit of a header deep down is
felt far up, as in a real repository. Everything follows from one seed.
"""

import dataclasses
import pathlib
import random
import shutil

MODULE_COUNT = 60
LIBRARIES_A_MODULE = 4
GENERATED_A_MODULE = 3

# A generated output of so many bytes that depend on its input: what stands for data, archives, images.
EXPAND = """\
import hashlib, sys
source, target, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
text = open(source, "rb").read()
with open(target, "wb") as out:
    for block in range(size // 32 + 1):
        out.write(hashlib.sha256(text + block.to_bytes(8, "little")).digest())
"""


@dataclasses.dataclass(frozen=True)
class Revision:
    """One build of the history."""

    label: str
    files: dict


def first_files(chance):
    files = {"tools/expand.py": EXPAND, "tools/BUILD": 'exports_files(["expand.py"])\n'}
    for number in range(MODULE_COUNT):
        build = ['package(default_visibility = ["//visibility:public"])']
        for library in range(LIBRARIES_A_MODULE):
            deps = [f":lib{library - 1}"] if library else []
            if number and library == 0:
                # Mostly neighbours, now and then something old that everybody uses.
                near = {max(0, number - 1 - int(chance.expovariate(0.3))) for _ in range(2)}
                deps += [f"//m{other}:lib{chance.randrange(LIBRARIES_A_MODULE)}" for other in sorted(near)]
            build.append(
                f'cc_library(name = "lib{library}", srcs = ["lib{library}.cc"], hdrs = ["lib{library}.h"], '
                f"deps = {deps!r})".replace("'", '"')
            )
            files[f"m{number}/lib{library}.h"] = header(number, library, 0)
            files[f"m{number}/lib{library}.cc"] = source(number, library, chance.randrange(20, 200), 0)
        for item in range(GENERATED_A_MODULE):
            size = min(4 << 20, int(chance.lognormvariate(10.0, 1.3)))
            build.append(
                f'genrule(name = "data{item}", srcs = ["data{item}.txt"], outs = ["data{item}.bin"], '
                f'tools = ["//tools:expand.py"], cmd = "python3 $(location //tools:expand.py) $< $@ {size}")'
            )
            files[f"m{number}/data{item}.txt"] = f"data {number} {item}\n"
        build.append('cc_binary(name = "program", srcs = ["main.cc"], deps = [":lib3"])')
        files[f"m{number}/main.cc"] = f'#include "m{number}/lib3.h"\nint main() {{ return f_{number}_3(1) == 0; }}\n'
        files[f"m{number}/BUILD"] = "\n".join(build) + "\n"
    return files


def header(number, library, edit):
    return (
        f"#ifndef M{number}_{library}\n#define M{number}_{library}\n// edit {edit}\n"
        f"int f_{number}_{library}(int x);\nconstexpr int version_{number}_{library} = {edit};\n#endif\n"
    )


def source(number, library, lines, edit):
    text = [f'#include "m{number}/lib{library}.h"', f"static const int edit = {edit};"]
    text += [f"static int step{line}(int x) {{ return x * {line + 3} + edit; }}" for line in range(lines)]
    text.append(f"int f_{number}_{library}(int x) {{ int y = x;")
    text += [f"  y += step{line}(y);" for line in range(lines)]
    text.append(f"  return y + version_{number}_{library}; }}")
    return "\n".join(text) + "\n"


def edited(files, chance, edit):
    """A change as developers make it: mostly one or two bodies, sometimes data, now and then a header."""
    files = dict(files)
    # Some modules are where the work is.
    number = min(MODULE_COUNT - 1, int(chance.paretovariate(0.7)) - 1)
    number = (number * 7 + 11) % MODULE_COUNT
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        library = chance.randrange(LIBRARIES_A_MODULE)
        kind = chance.random()
        if kind < 0.65:
            path = f"m{number}/lib{library}.cc"
            files[path] = source(number, library, files[path].count("static int step"), edit)
        elif kind < 0.82:
            files[f"m{number}/data{library % GENERATED_A_MODULE}.txt"] = f"data {number} {library} {edit}\n"
        else:
            files[f"m{number}/lib{library}.h"] = header(number, library, edit)
    return files


def history(seed, count):
    """The builds in order: a trunk, one-off branches off recent trunk revisions, reverts, and old revisions built again."""
    chance = random.Random(seed)
    trunk = [first_files(chance)]
    yield Revision("trunk-0", trunk[0])
    for number in range(1, count):
        kind = chance.random()
        if kind < 0.55:
            trunk.append(edited(trunk[-1], chance, number))
            yield Revision(f"trunk-{len(trunk) - 1}", trunk[-1])
        elif kind < 0.80:
            base = max(0, len(trunk) - 1 - chance.randrange(4))
            yield Revision(f"branch-{number}-of-{base}", edited(trunk[base], chance, number))
        elif kind < 0.88 and len(trunk) > 2:
            # A revert brings back texts that were built before.
            trunk.append(trunk[-2])
            yield Revision(f"revert-{len(trunk) - 1}", trunk[-1])
        else:
            base = max(0, len(trunk) - 1 - chance.randrange(8))
            yield Revision(f"again-{base}", trunk[base])


def write(files, folder: pathlib.Path, shims: pathlib.Path):
    """Makes `folder` hold these files, touching only what differs."""
    if not folder.exists():
        shutil.copytree(shims / "shims", folder / "shims")
        for name in ("WORKSPACE", ".bazelignore", ".bazelrc"):
            shutil.copy(shims / name, folder / name)
    for path, text in files.items():
        target = folder / path
        if not target.exists() or target.read_text() != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
