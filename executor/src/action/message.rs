//! `Action` messages.

use std::time::Duration;

use bytes::Bytes;
use cask_index::Digest;
use cask_proto::digest::DigestRule;
use cask_proto::reapi;
use prost::Message as _;

use super::ActionFault;

/// An action whose digests are of its own function.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedAction {
    /// Of the Command message.
    pub command: Digest,
    /// Of the Directory message at the top of its input.
    pub input_root: Digest,
    /// Of the run alone; `None`: the server's default.
    pub timeout: Option<Duration>,
    /// Its result is for its caller alone.
    pub do_not_cache: bool,
    /// Where it may run; see [`requirements`](super::requirements).
    pub platform: Option<reapi::Platform>,
}

const NANOS_PER_SECOND: u32 = 1_000_000_000;

impl CheckedAction {
    /// Decodes and checks an Action. `rule` is like the digest of the action itself.
    pub fn decode(rule: DigestRule, message: Bytes) -> Result<Self, ActionFault> {
        let message = reapi::Action::decode(message).map_err(|_| ActionFault::Undecodable("action"))?;
        let digest = |field, digest: Option<&reapi::Digest>| {
            rule.from_wire_field(field, digest).map_err(|error| ActionFault::Digest("the action", error))
        };
        let timeout = match message.timeout {
            // Zero seconds is what clients send that have no timeout.
            None => None,
            // By hand: the library carries nanoseconds over, and cannot negate the least number.
            Some(timeout) => {
                let seconds = u64::try_from(timeout.seconds).map_err(|_| ActionFault::Timeout)?;
                let nanos = u32::try_from(timeout.nanos).map_err(|_| ActionFault::Timeout)?;
                if nanos >= NANOS_PER_SECOND {
                    return Err(ActionFault::Timeout);
                }
                Some(Duration::new(seconds, nanos)).filter(|length| !length.is_zero())
            }
        };
        Ok(Self {
            command: digest("command_digest", message.command_digest.as_ref())?,
            input_root: digest("input_root_digest", message.input_root_digest.as_ref())?,
            timeout,
            do_not_cache: message.do_not_cache,
            platform: message.platform,
        })
    }
}

#[cfg(test)]
mod tests {
    use cask_index::DigestFunction;
    use cask_proto::digest::to_wire;

    use super::*;

    fn action(timeout: Option<prost_types::Duration>) -> reapi::Action {
        let digest = Some(to_wire(&DigestFunction::Sha256.empty_blob()));
        reapi::Action { command_digest: digest.clone(), input_root_digest: digest, timeout, ..Default::default() }
    }

    fn decode(message: &reapi::Action) -> Result<CheckedAction, ActionFault> {
        let rule = DigestRule::like(&DigestFunction::Sha256.empty_blob());
        CheckedAction::decode(rule, message.encode_to_vec().into())
    }

    #[test]
    fn a_timeout_is_a_length_of_time() {
        for (seconds, nanos, expected) in [
            (0, 0, Ok(None)),
            (3, 500_000_000, Ok(Some(Duration::from_millis(3500)))),
            (-1, 0, Err(ActionFault::Timeout)),
            (0, -1, Err(ActionFault::Timeout)),
            (1, 1_000_000_000, Err(ActionFault::Timeout)),
            (i64::MIN, 0, Err(ActionFault::Timeout)),
        ] {
            let found = decode(&action(Some(prost_types::Duration { seconds, nanos }))).map(|action| action.timeout);
            assert_eq!(found, expected, "{seconds} {nanos}");
        }
        assert_eq!(decode(&action(None)).expect("an action").timeout, None);
    }

    #[test]
    fn what_is_no_action_is_refused() {
        let rule = DigestRule::like(&DigestFunction::Sha256.empty_blob());
        let refused = CheckedAction::decode(rule, Bytes::from_static(b"\xff\xff"));
        assert_eq!(refused, Err(ActionFault::Undecodable("action")));
        for field in [0, 1] {
            let mut message = action(None);
            *[&mut message.command_digest, &mut message.input_root_digest][field] = None;
            assert!(matches!(decode(&message), Err(ActionFault::Digest(..))));
            let sha1 = Some(to_wire(&DigestFunction::Sha1.empty_blob()));
            *[&mut message.command_digest, &mut message.input_root_digest][field] = sha1;
            assert!(matches!(decode(&message), Err(ActionFault::Digest(..))));
        }
    }
}
