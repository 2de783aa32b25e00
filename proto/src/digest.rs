//! Digests on the wire <-> [`Digest`].
//!
//! A request names its digest function once, or not at all: then the hash's length decides, among the functions whose
//! lengths differ. [`FunctionRule`] is that decision, made once a request and applied to each of its digests.

use cask_index::{Digest, DigestFunction, Namespace};

use crate::{error::WireError, reapi};

/// Hash lengths (in hexadecimal characters) that name a function by themselves; the other functions share a length with
/// one of these and have to be named.
const FUNCTION_BY_HASH_CHARS: [(usize, DigestFunction); 5] = [
    (32, DigestFunction::Md5),
    (40, DigestFunction::Sha1),
    (64, DigestFunction::Sha256),
    (96, DigestFunction::Sha384),
    (128, DigestFunction::Sha512),
];

/// True for the functions that are recognised by hash length and must not be named in a resource name.
pub fn is_inferred_by_length(function: DigestFunction) -> bool {
    FUNCTION_BY_HASH_CHARS.iter().any(|(_, inferred)| *inferred == function)
}

/// Which function the digests of one request are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionRule {
    /// The request says so.
    Named(DigestFunction),
    /// The request does not say: by hash length.
    ByHashLength {
        /// Tried first when its length fits: for instances whose clients send, say, BLAKE3 hashes without saying so.
        preferred: Option<DigestFunction>,
    },
}

impl FunctionRule {
    /// By hash length alone, the API's default.
    pub const INFERRED: FunctionRule = FunctionRule::ByHashLength { preferred: None };

    /// The rule of a request with this `digest_function` field; `preferred` is the instance's setting, if it has one.
    pub fn of_request(digest_function: i32, preferred: Option<DigestFunction>) -> Result<Self, WireError> {
        use reapi::digest_function::Value;
        match Value::try_from(digest_function) {
            Ok(Value::Unknown) => Ok(Self::ByHashLength { preferred }),
            Ok(known) => DigestFunction::from_wire_number(digest_function)
                .map(Self::Named)
                .ok_or(WireError::FunctionUnsupported(known.as_str_name())),
            Err(_) => Err(WireError::FunctionUnknown(digest_function)),
        }
    }

    /// The function of a hash that has this many hexadecimal characters. A named function is not checked against it
    /// here.
    pub fn function(self, hash_chars: usize) -> Result<DigestFunction, WireError> {
        match self {
            Self::Named(function) => Ok(function),
            Self::ByHashLength { preferred: Some(preferred) } if preferred.hash_length_bytes() * 2 == hash_chars => {
                Ok(preferred)
            }
            Self::ByHashLength { .. } => FUNCTION_BY_HASH_CHARS
                .iter()
                .find(|(chars, _)| *chars == hash_chars)
                .map(|(_, function)| *function)
                .ok_or(WireError::HashLengthUnknown(hash_chars)),
        }
    }

    /// Parses a hash and a size.
    pub fn digest(self, hash_hex: &str, size_bytes: i64) -> Result<Digest, WireError> {
        let function = self.function(hash_hex.len())?;
        Ok(Digest::parse_hex(function, hash_hex.as_bytes(), size_bytes)?)
    }

    /// Parses a digest message.
    pub fn from_wire(self, digest: &reapi::Digest) -> Result<Digest, WireError> {
        self.digest(&digest.hash, digest.size_bytes)
    }

    /// Parses a digest field that has to be set; `field` is its name, for the error.
    pub fn from_wire_field(self, field: &'static str, digest: Option<&reapi::Digest>) -> Result<Digest, WireError> {
        self.from_wire(digest.ok_or(WireError::DigestUnset(field))?)
    }
}

/// Which digests a request's are: of which function, and in which namespace they are looked up. What a digest refers to is
/// read by the rule that is [like](DigestRule::like) it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestRule {
    function: FunctionRule,
    namespace: Namespace,
}

impl DigestRule {
    /// Digests of this function rule in this namespace.
    pub fn new(function: FunctionRule, namespace: Namespace) -> Self {
        Self { function, namespace }
    }

    /// Function and namespace of `digest`.
    pub fn like(digest: &Digest) -> Self {
        Self { function: FunctionRule::Named(digest.function()), namespace: digest.namespace() }
    }

    /// Parses a hash and a size.
    #[inline]
    pub fn digest(self, hash_hex: &str, size_bytes: i64) -> Result<Digest, WireError> {
        Ok(self.function.digest(hash_hex, size_bytes)?.within(self.namespace))
    }

    /// Function and namespace of the digests that have a hash of this many characters; `None` where such are refused.
    pub(crate) fn for_hash_chars(self, hash_chars: usize) -> Option<(DigestFunction, Namespace)> {
        let function = self.function.function(hash_chars).ok()?;
        (2 * function.hash_length_bytes() == hash_chars).then_some((function, self.namespace))
    }

    /// Parses a digest message.
    pub fn from_wire(self, digest: &reapi::Digest) -> Result<Digest, WireError> {
        self.digest(&digest.hash, digest.size_bytes)
    }

    /// Parses a digest field that has to be set; `field` is its name, for the error.
    pub fn from_wire_field(self, field: &'static str, digest: Option<&reapi::Digest>) -> Result<Digest, WireError> {
        Ok(self.function.from_wire_field(field, digest)?.within(self.namespace))
    }
}

/// The digest message of a digest; its function travels apart, in [`function_field`].
pub fn to_wire(digest: &Digest) -> reapi::Digest {
    reapi::Digest {
        hash: digest.hash_hex(),
        // Parsed digests fit; a blob of 2^63 bytes does not exist.
        size_bytes: i64::try_from(digest.size_bytes()).expect("a blob's size fits in 63 bits"),
    }
}

/// The value of a request's `digest_function` field.
pub fn function_field(function: DigestFunction) -> i32 {
    i32::from(function.wire_number())
}
