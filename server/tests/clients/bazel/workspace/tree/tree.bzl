"""Rules around a directory output."""

def _tree_impl(ctx):
    directory = ctx.actions.declare_directory(ctx.label.name)
    ctx.actions.run_shell(
        outputs = [directory],
        arguments = [directory.path, str(ctx.attr.branches), str(ctx.attr.leaves_per_branch)],
        command = """
            set -eu
            mkdir -p "$1/nested/empty.d"
            for branch in $(seq "$2"); do
              mkdir -p "$1/nested/branch_$branch"
              for leaf in $(seq "$3"); do
                echo "branch $branch leaf $leaf" > "$1/nested/branch_$branch/leaf_$leaf.txt"
              done
            done
            printf '#!/bin/sh\\nexit 0\\n' > "$1/run.sh"
            chmod 755 "$1/run.sh"
        """,
        mnemonic = "FixtureTree",
    )
    return [DefaultInfo(files = depset([directory]))]

tree = rule(
    implementation = _tree_impl,
    attrs = {
        "branches": attr.int(mandatory = True),
        "leaves_per_branch": attr.int(mandatory = True),
    },
)

def _listing_impl(ctx):
    directory = ctx.file.directory
    listing_file = ctx.actions.declare_file(ctx.label.name + ".txt")
    ctx.actions.run_shell(
        inputs = [directory],
        outputs = [listing_file],
        arguments = [directory.path, listing_file.path],
        command = '(cd "$1" && find -L . -type f | LC_ALL=C sort | xargs cksum) > "$2"',
        mnemonic = "FixtureListing",
    )
    return [DefaultInfo(files = depset([listing_file]))]

listing = rule(
    implementation = _listing_impl,
    attrs = {"directory": attr.label(allow_single_file = True, mandatory = True)},
)
