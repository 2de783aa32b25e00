//! One entry of the list of instances: `NAME[,cas=isolated][,actions=read-only][,digest-function=FUNCTION]`. `*` stands for all names that have no
//! entry of their own; the name may be empty, which is the instance of clients that name none.

use std::str::FromStr;

use cask_index::DigestFunction;
use cask_proto::InstanceName;
use serde::{Deserialize, Deserializer};

/// What the operator says of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InstanceSetting {
    /// `None`: all that have no entry.
    pub(crate) name: Option<InstanceName>,
    pub(crate) sharing: CasSharing,
    pub(crate) actions: ActionAccess,
    pub(crate) digest_function: Option<DigestFunction>,
}

/// Who may store action results in an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ActionAccess {
    #[default]
    ReadWrite,
    /// Nobody: they are read only. For instances whose results others fill.
    ReadOnly,
}

/// Whose blobs an instance sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CasSharing {
    /// Those of every instance that is not isolated.
    Shared,
    /// Its own only.
    Isolated,
}

const FORM: &str = "write NAME[,cas=shared|isolated][,actions=read-write|read-only][,digest-function=sha256|blake3|...], \
                    NAME being * for all others";

impl FromStr for InstanceSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let name = match parts.next().unwrap_or_default() {
            "*" => None,
            name => Some(InstanceName::parse(name).map_err(|error| error.to_string())?),
        };
        let (mut sharing, mut actions, mut digest_function) = (None, None, None);
        for part in parts {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("`{part}` is no setting; {FORM}"))?;
            let is_new = match key {
                "cas" => {
                    let value = match value {
                        "shared" => CasSharing::Shared,
                        "isolated" => CasSharing::Isolated,
                        _ => return Err(format!("`{value}` is neither shared nor isolated")),
                    };
                    sharing.replace(value).is_none()
                }
                "actions" => {
                    let value = match value {
                        "read-write" => ActionAccess::ReadWrite,
                        "read-only" => ActionAccess::ReadOnly,
                        _ => return Err(format!("`{value}` is neither read-write nor read-only")),
                    };
                    actions.replace(value).is_none()
                }
                "digest-function" => {
                    let function = DigestFunction::from_name(value)
                        .ok_or_else(|| format!("`{value}` is no digest function; {}", known_functions()))?;
                    digest_function.replace(function).is_none()
                }
                _ => return Err(format!("`{key}` is no setting of an instance; {FORM}")),
            };
            if !is_new {
                return Err(format!("`{key}` is set twice"));
            }
        }
        let sharing = sharing.unwrap_or(CasSharing::Shared);
        if name.is_none() && sharing == CasSharing::Isolated {
            return Err("`*` cannot be isolated: name each instance whose blobs are to be kept apart".to_owned());
        }
        let actions = actions.unwrap_or(ActionAccess::ReadWrite);
        Ok(Self { name, sharing, actions, digest_function })
    }
}

fn known_functions() -> String {
    format!("known are {}", DigestFunction::ALL.map(DigestFunction::name).join(", "))
}

impl<'de> Deserialize<'de> for InstanceSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::ActionAccess::{ReadOnly, ReadWrite};
    use super::CasSharing::{Isolated, Shared};
    use super::*;

    #[test]
    fn what_is_written_is_meant() {
        let setting = |name: Option<&str>, sharing, actions, digest_function| {
            let name = name.map(|name| InstanceName::parse(name).unwrap());
            Ok(InstanceSetting { name, sharing, actions, digest_function })
        };
        for (text, expected) in [
            ("main", setting(Some("main"), Shared, ReadWrite, None)),
            ("", setting(Some(""), Shared, ReadWrite, None)),
            ("*,digest-function=blake3", setting(None, Shared, ReadWrite, Some(DigestFunction::Blake3))),
            ("team/a,cas=isolated", setting(Some("team/a"), Isolated, ReadWrite, None)),
            ("a,digest-function=sha1,cas=shared", setting(Some("a"), Shared, ReadWrite, Some(DigestFunction::Sha1))),
            ("a,actions=read-only", setting(Some("a"), Shared, ReadOnly, None)),
        ] {
            assert_eq!(text.parse::<InstanceSetting>(), expected, "{text}");
        }
        for text in [
            "a//b",
            "a,cas",
            "a,cas=",
            "a,cas=none",
            "a,size=3",
            "a,cas=shared,cas=shared",
            "*,cas=isolated",
            "a,actions=no",
        ] {
            assert!(text.parse::<InstanceSetting>().is_err(), "{text}");
        }
    }
}
