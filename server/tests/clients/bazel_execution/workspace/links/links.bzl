"""A directory output that has links in it, and what an action finds when it follows them."""

def _linked_tree_impl(ctx):
    directory = ctx.actions.declare_directory(ctx.label.name)
    ctx.actions.run_shell(
        outputs = [directory],
        arguments = [directory.path],
        command = """
            set -eu
            mkdir -p "$1/deep/deeper"
            cd "$1"
            echo bottom > deep/deeper/file.txt
            ln -s deep/deeper/file.txt down.txt
            ln -s ../../down.txt deep/deeper/up_and_down.txt
            ln -s deep/deeper folder
        """,
        mnemonic = "FixtureLinks",
    )
    return [DefaultInfo(files = depset([directory]))]

linked_tree = rule(implementation = _linked_tree_impl)

def _resolved_impl(ctx):
    directory = ctx.file.directory
    text = ctx.actions.declare_file(ctx.label.name + ".txt")
    ctx.actions.run_shell(
        inputs = [directory],
        outputs = [text],
        arguments = [directory.path, text.path],
        command = 'cat "$1/down.txt" "$1/deep/deeper/up_and_down.txt" "$1/folder/file.txt" > "$2"',
        mnemonic = "FixtureResolved",
    )
    return [DefaultInfo(files = depset([text]))]

resolved = rule(
    implementation = _resolved_impl,
    attrs = {"directory": attr.label(allow_single_file = True, mandatory = True)},
)
