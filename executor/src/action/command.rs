//! `Command` messages: what is run, where, and which outputs are wanted of it.

use std::collections::HashSet;

use bytes::Bytes;
use cask_proto::reapi::{self, command::OutputDirectoryFormat};
use prost::Message as _;

use super::fault::excerpt;
use super::{ActionFault, RootPath};

/// A command that can be run, as far as can be told without its input.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedCommand {
    /// At least one; the first is not empty.
    pub arguments: Vec<String>,
    /// Names and values, as they came.
    pub environment: Vec<(String, String)>,
    /// Has to be a directory of the input.
    pub working_directory: RootPath,
    /// In the order in which they came; no path twice.
    pub outputs: Vec<OutputWish>,
    /// Whether the wishes came in `output_paths`; else they came in the two lists of version 2.0.
    pub uses_output_paths: bool,
    /// Whether outputs' times of change are wanted.
    pub wants_mtime: bool,
    /// Whether outputs' modes are wanted.
    pub wants_unix_mode: bool,
    /// In which form directories are wanted; unknown ones are trees.
    pub directory_format: OutputDirectoryFormat,
    /// The command's own platform, for actions that have none.
    pub platform: Option<reapi::Platform>,
}

/// An output that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputWish {
    /// As the client wrote it: what the result calls it.
    pub path: String,
    /// Where that is.
    pub place: RootPath,
    /// What it may be.
    pub kind: OutputKind,
}

/// What an output may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// Whatever stands there.
    Any,
    /// A file, or a symlink.
    File,
    /// A directory, or a symlink.
    Directory,
}

impl CheckedCommand {
    /// Decodes and checks a Command.
    pub fn decode(message: Bytes) -> Result<Self, ActionFault> {
        Self::check(reapi::Command::decode(message).map_err(|_| ActionFault::Undecodable("command"))?)
    }

    /// Checks a decoded Command.
    pub fn check(message: reapi::Command) -> Result<Self, ActionFault> {
        check_arguments(&message.arguments)?;
        let environment = check_environment(message.environment_variables)?;
        let working_directory = RootPath::ROOT.join("the working directory", &message.working_directory)?;
        let uses_output_paths = !message.output_paths.is_empty();
        let wishes: Vec<(String, OutputKind)> = if uses_output_paths {
            message.output_paths.into_iter().map(|path| (path, OutputKind::Any)).collect()
        } else {
            let files = message.output_files.into_iter().map(|path| (path, OutputKind::File));
            let directories = message.output_directories.into_iter().map(|path| (path, OutputKind::Directory));
            files.chain(directories).collect()
        };
        let mut outputs = Vec::with_capacity(wishes.len());
        let mut seen = HashSet::with_capacity(wishes.len());
        for (path, kind) in wishes {
            let place = working_directory.join("the output", &path)?;
            if place == RootPath::ROOT && kind == OutputKind::File {
                return Err(ActionFault::Path { what: "the output", path: excerpt(&path), fault: "is the input root" });
            }
            if !seen.insert(path.clone()) {
                return Err(ActionFault::OutputTwice(excerpt(&path)));
            }
            outputs.push(OutputWish { path, place, kind });
        }
        let (mut wants_mtime, mut wants_unix_mode) = (false, false);
        for property in &message.output_node_properties {
            match property.as_str() {
                "mtime" => wants_mtime = true,
                "unix_mode" => wants_unix_mode = true,
                other => return Err(ActionFault::NodeProperty(excerpt(other))),
            }
        }
        let directory_format =
            OutputDirectoryFormat::try_from(message.output_directory_format).unwrap_or(OutputDirectoryFormat::TreeOnly);
        Ok(Self {
            arguments: message.arguments,
            environment,
            working_directory,
            outputs,
            uses_output_paths,
            wants_mtime,
            wants_unix_mode,
            directory_format,
            platform: message.platform,
        })
    }
}

fn check_arguments(arguments: &[String]) -> Result<(), ActionFault> {
    if arguments.first().is_none_or(String::is_empty) {
        return Err(ActionFault::Arguments("name no program"));
    }
    if arguments.iter().any(|argument| argument.contains('\0')) {
        return Err(ActionFault::Arguments("have a NUL in them"));
    }
    Ok(())
}

fn check_environment(
    variables: Vec<reapi::command::EnvironmentVariable>,
) -> Result<Vec<(String, String)>, ActionFault> {
    let mut seen = HashSet::with_capacity(variables.len());
    let mut environment = Vec::with_capacity(variables.len());
    for variable in variables {
        let fault = if variable.name.is_empty() {
            "has no name"
        } else if variable.name.contains(['=', '\0']) {
            "has a `=` or a NUL in its name"
        } else if variable.value.contains('\0') {
            "has a NUL in its value"
        } else if !seen.insert(variable.name.clone()) {
            "is set twice"
        } else {
            environment.push((variable.name, variable.value));
            continue;
        };
        return Err(ActionFault::Variable(excerpt(&variable.name), fault));
    }
    Ok(environment)
}

#[cfg(test)]
mod tests {
    use reapi::Command;
    use reapi::command::EnvironmentVariable;

    use super::*;

    fn command() -> Command {
        Command { arguments: vec!["/bin/true".to_owned()], ..Command::default() }
    }

    fn texts(paths: &[&str]) -> Vec<String> {
        paths.iter().map(|path| (*path).to_owned()).collect()
    }

    #[test]
    fn outputs_are_places_below_the_root() {
        for (working_directory, path, place) in [
            ("", "a", "a"),
            ("w/x", "a/b", "w/x/a/b"),
            ("w/x", "../a", "w/a"),
            ("w/x", "../../a", "a"),
            ("w", ".", "w"),
            ("w", "", "w"),
        ] {
            let message =
                Command { working_directory: working_directory.to_owned(), output_paths: texts(&[path]), ..command() };
            let checked = CheckedCommand::check(message).expect(path);
            assert_eq!(checked.outputs[0].place.to_string(), place, "{path}");
            assert_eq!(checked.outputs[0].path, path);
        }
    }

    #[test]
    fn the_old_lists_count_where_there_is_no_new_one() {
        let old = Command { output_files: texts(&["f"]), output_directories: texts(&["d", ""]), ..command() };
        let checked = CheckedCommand::check(old.clone()).expect("a command");
        let kinds: Vec<_> = checked.outputs.iter().map(|output| output.kind).collect();
        assert_eq!(kinds, [OutputKind::File, OutputKind::Directory, OutputKind::Directory]);
        assert!(!checked.uses_output_paths);
        let both = Command { output_paths: texts(&["p"]), ..old };
        let checked = CheckedCommand::check(both).expect("a command");
        assert_eq!(checked.outputs.len(), 1);
        assert!(checked.uses_output_paths);
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        let variable = |name: &str, value: &str| EnvironmentVariable { name: name.into(), value: value.into() };
        for (what, message) in [
            ("no arguments", Command { arguments: Vec::new(), ..command() }),
            ("no program", Command { arguments: texts(&["", "x"]), ..command() }),
            ("a NUL in an argument", Command { arguments: texts(&["a", "b\0"]), ..command() }),
            ("an absolute working directory", Command { working_directory: "/w".into(), ..command() }),
            ("a working directory outside", Command { working_directory: "w/../..".into(), ..command() }),
            ("an output outside", Command { output_paths: texts(&["../x"]), ..command() }),
            ("an absolute output", Command { output_files: texts(&["/x"]), ..command() }),
            ("an output with a slash behind", Command { output_directories: texts(&["x/"]), ..command() }),
            ("an output twice", Command { output_paths: texts(&["x", "x"]), ..command() }),
            ("an output in both lists", {
                Command { output_files: texts(&["x"]), output_directories: texts(&["x"]), ..command() }
            }),
            ("the root as a file", Command { output_files: texts(&["."]), ..command() }),
            ("an unknown node property", Command { output_node_properties: texts(&["color"]), ..command() }),
            ("a variable without a name", Command { environment_variables: vec![variable("", "x")], ..command() }),
            ("a variable with =", Command { environment_variables: vec![variable("a=b", "x")], ..command() }),
            ("a NUL in a value", Command { environment_variables: vec![variable("a", "\0")], ..command() }),
            ("a variable twice", {
                Command { environment_variables: vec![variable("a", "1"), variable("a", "2")], ..command() }
            }),
        ] {
            assert!(CheckedCommand::check(message).is_err(), "{what}");
        }
        assert_eq!(CheckedCommand::decode(Bytes::from_static(b"\xff")), Err(ActionFault::Undecodable("command")));
    }

    #[test]
    fn an_unknown_format_of_directories_is_a_tree() {
        let checked = CheckedCommand::check(Command { output_directory_format: 77, ..command() }).expect("a command");
        assert_eq!(checked.directory_format, OutputDirectoryFormat::TreeOnly);
    }
}
