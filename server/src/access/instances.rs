//! Instances: what a request's `instance_name` means. Resolved once a request, before anything else looks at it.
//!
//! Action results are always apart by instance name. Blobs are shared by all instances but those that are isolated, which have a
//! namespace of their own. Without a list every well-formed name is an instance; with one, a name that is not on it is refused,
//! unless the list has an entry for all others.

use std::collections::HashMap;

use cask_index::{Digest, DigestFunction, Namespace};
use cask_proto::digest::{DigestRule, FunctionRule};
use cask_proto::{InstanceName, ReadName, WireError, WriteName};

use crate::config::ActionAccess;

/// What holds for an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) namespace: Namespace,
    /// Of hashes of its length, in requests that name no function.
    pub(crate) preferred: Option<DigestFunction>,
    pub(crate) actions: ActionAccess,
}

/// A request's instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    name: InstanceName,
    terms: Terms,
}

/// Why a name is no instance. Permanent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InstanceError {
    #[error(transparent)]
    Malformed(#[from] WireError),
    #[error("instance `{0}` is not served here")]
    Unknown(InstanceName),
}

/// Action results are not taken here. Permanent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("action results of instance `{0}` are read only")]
pub(crate) struct ReadOnly(InstanceName);

/// The instances this server has.
#[derive(Clone, Debug)]
pub(crate) struct Instances {
    listed: HashMap<InstanceName, Terms>,
    /// Of a name that is not listed; `None`: it is refused.
    others: Option<Terms>,
}

impl Default for Instances {
    /// Every name, blobs shared, functions by hash length.
    fn default() -> Self {
        Self { listed: HashMap::new(), others: Some(Terms::default()) }
    }
}

impl Instances {
    /// These and, with `others`, all that are not among them.
    pub(crate) fn new(listed: HashMap<InstanceName, Terms>, others: Option<Terms>) -> Self {
        Self { listed, others }
    }

    /// The instance of a request's `instance_name`.
    pub(crate) fn resolve(&self, name: &str) -> Result<Instance, InstanceError> {
        self.of_name(InstanceName::parse(name)?)
    }

    /// The instance of a name that was parsed.
    pub(crate) fn of_name(&self, name: InstanceName) -> Result<Instance, InstanceError> {
        match self.terms(&name) {
            Some(terms) => Ok(Instance { name, terms }),
            None => Err(InstanceError::Unknown(name)),
        }
    }

    /// The instance and the name of a blob to read.
    pub(crate) fn read_name(&self, name: &str) -> Result<(Instance, ReadName), InstanceError> {
        let mut name = ReadName::parse_with(name, |instance| self.rule_of(instance))?;
        let instance = self.of_name(name.instance.clone())?;
        name.digest = instance.within(name.digest);
        Ok((instance, name))
    }

    /// The instance and the name of an upload.
    pub(crate) fn write_name(&self, name: &str) -> Result<(Instance, WriteName), InstanceError> {
        let mut name = WriteName::parse_with(name, |instance| self.rule_of(instance))?;
        let instance = self.of_name(name.instance.clone())?;
        name.digest = instance.within(name.digest);
        Ok((instance, name))
    }

    /// Of an unknown instance any rule does: its name is refused next.
    fn rule_of(&self, name: &InstanceName) -> FunctionRule {
        let preferred = self.terms(name).and_then(|terms| terms.preferred);
        FunctionRule::ByHashLength { preferred }
    }

    fn terms(&self, name: &InstanceName) -> Option<Terms> {
        self.listed.get(name).copied().or(self.others)
    }
}

impl Instance {
    pub(crate) fn name(&self) -> &InstanceName {
        &self.name
    }

    /// Where its blobs are looked up.
    pub(crate) fn namespace(&self) -> Namespace {
        self.terms.namespace
    }

    /// The function that its clients mean when they name none and the hash's length allows it.
    pub(crate) fn preferred_function(&self) -> Option<DigestFunction> {
        self.terms.preferred
    }

    /// Whether action results may be stored in it.
    pub(crate) fn takes_action_results(&self) -> bool {
        self.terms.actions == ActionAccess::ReadWrite
    }

    /// # Errors
    /// [`ReadOnly`] where they may not.
    pub(crate) fn require_action_writes(&self) -> Result<(), ReadOnly> {
        if self.takes_action_results() { Ok(()) } else { Err(ReadOnly(self.name.clone())) }
    }

    /// The rule of a request with this `digest_function` field: refused at once when it names one that is not served, so that
    /// even a request without digests is.
    pub(crate) fn digest_rule(&self, digest_function: i32) -> Result<DigestRule, WireError> {
        let function = FunctionRule::of_request(digest_function, self.terms.preferred)?;
        Ok(DigestRule::new(function, self.terms.namespace))
    }

    /// The function of a hash of so many hexadecimal characters, where nothing else tells it.
    pub(crate) fn function_of_hash(&self, hash_chars: usize) -> Result<DigestFunction, WireError> {
        FunctionRule::ByHashLength { preferred: self.terms.preferred }.function(hash_chars)
    }

    /// The same content, looked up where this instance's blobs are.
    pub(crate) fn within(&self, digest: Digest) -> Digest {
        digest.within(self.terms.namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn name(name: &str) -> InstanceName {
        InstanceName::parse(name).unwrap()
    }

    fn listed() -> Instances {
        let apart =
            Terms { namespace: Namespace::from_number(7), preferred: Some(DigestFunction::Blake3), ..Terms::default() };
        Instances::new(HashMap::from([(name("team/a"), apart), (name(""), Terms::default())]), None)
    }

    #[test]
    fn without_a_list_every_well_formed_name_is_an_instance() {
        for name in ["", "main", "a/b/c"] {
            assert_eq!(Instances::default().resolve(name).unwrap().name().as_str(), name);
        }
        for name in ["/", "a//b", "a/blobs"] {
            assert!(matches!(Instances::default().resolve(name), Err(InstanceError::Malformed(_))), "{name}");
        }
    }

    #[test]
    fn a_list_is_complete_unless_it_names_all_others() {
        assert_eq!(listed().resolve("main"), Err(InstanceError::Unknown(name("main"))));
        assert_eq!(listed().resolve("team"), Err(InstanceError::Unknown(name("team"))));
        assert!(listed().resolve("").is_ok());
        let open = Instances { others: Some(Terms::default()), ..listed() };
        assert!(open.resolve("main").is_ok());
        assert!(matches!(listed().read_name(&format!("main/blobs/{HASH}/3")), Err(InstanceError::Unknown(_))));
        assert!(matches!(listed().write_name(&format!("x/uploads/u/blobs/{HASH}/3")), Err(InstanceError::Unknown(_))));
    }

    #[test]
    fn digests_are_of_the_instance_they_are_asked_in() {
        let wire = cask_proto::reapi::Digest { hash: HASH.to_owned(), size_bytes: 3 };
        for (instance, namespace, function) in [("", 0, DigestFunction::Sha256), ("team/a", 7, DigestFunction::Blake3)]
        {
            let resolved = listed().resolve(instance).unwrap();
            let inferred = resolved.digest_rule(0).unwrap().from_wire(&wire).unwrap();
            assert_eq!((inferred.namespace().number(), inferred.function()), (namespace, function));
            let named = resolved.digest_rule(1).unwrap().from_wire(&wire).unwrap();
            assert_eq!((named.namespace().number(), named.function()), (namespace, DigestFunction::Sha256));
            let prefix = if instance.is_empty() { String::new() } else { format!("{instance}/") };
            let (_, read) = listed().read_name(&format!("{prefix}blobs/{HASH}/3")).unwrap();
            let (_, write) = listed().write_name(&format!("{prefix}uploads/u/blobs/{HASH}/3")).unwrap();
            assert_eq!((read.digest, write.digest), (inferred, inferred));
        }
    }
}
