//! Which properties of a platform an action asks for.

use cask_proto::reapi::Platform;

use super::{CheckedAction, CheckedCommand};

/// The action's properties if it has a platform, else the command's (as clients of versions 2.0 and 2.1 have it); sorted by name
/// and value, each once.
pub fn requirements(action: &CheckedAction, command: &CheckedCommand) -> Platform {
    let mut platform = action.platform.clone().or_else(|| command.platform.clone()).unwrap_or_default();
    platform.properties.sort_by(|one, other| (&one.name, &one.value).cmp(&(&other.name, &other.value)));
    platform.properties.dedup();
    platform
}

#[cfg(test)]
mod tests {
    use cask_index::DigestFunction;
    use cask_proto::reapi::Command;
    use cask_proto::reapi::platform::Property;

    use super::*;

    fn platform(properties: &[(&str, &str)]) -> Platform {
        let property = |(name, value): &(&str, &str)| Property { name: (*name).into(), value: (*value).into() };
        Platform { properties: properties.iter().map(property).collect() }
    }

    #[test]
    fn the_actions_platform_counts_before_the_commands() {
        let digest = DigestFunction::Sha256.empty_blob();
        for (of_action, of_command, expected) in [
            (None, None, platform(&[])),
            (None, Some(platform(&[("a", "1")])), platform(&[("a", "1")])),
            (Some(platform(&[])), Some(platform(&[("a", "1")])), platform(&[])),
            (
                Some(platform(&[("b", "2"), ("a", "2"), ("b", "1"), ("b", "2")])),
                Some(platform(&[("a", "1")])),
                platform(&[("a", "2"), ("b", "1"), ("b", "2")]),
            ),
        ] {
            let action = CheckedAction {
                command: digest,
                input_root: digest,
                timeout: None,
                do_not_cache: false,
                platform: of_action,
            };
            let arguments = vec!["/bin/true".to_owned()];
            let command = Command { arguments, platform: of_command, ..Command::default() };
            let command = CheckedCommand::check(command).expect("a command");
            assert_eq!(requirements(&action, &command), expected);
        }
    }
}
