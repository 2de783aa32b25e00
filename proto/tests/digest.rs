//! Digest messages and the `digest_function` field.

use cask_index::{DigestError, DigestFunction};
use cask_proto::{
    WireError,
    digest::{FunctionRule, function_field, is_inferred_by_length, to_wire},
    reapi,
};

const SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn wire(hash: &str, size_bytes: i64) -> reapi::Digest {
    reapi::Digest { hash: hash.to_owned(), size_bytes }
}

#[test]
fn the_function_field_decides_and_its_absence_means_the_length_does() {
    let preferred = Some(DigestFunction::Blake3);
    for (field, preferred, hash_chars, expected) in [
        (0, None, 64, Ok(DigestFunction::Sha256)),
        (0, None, 40, Ok(DigestFunction::Sha1)),
        (0, None, 32, Ok(DigestFunction::Md5)),
        (0, None, 96, Ok(DigestFunction::Sha384)),
        (0, None, 128, Ok(DigestFunction::Sha512)),
        (0, preferred, 64, Ok(DigestFunction::Blake3)),
        (0, preferred, 40, Ok(DigestFunction::Sha1)),
        (1, preferred, 64, Ok(DigestFunction::Sha256)),
        (9, None, 64, Ok(DigestFunction::Blake3)),
        (8, None, 64, Ok(DigestFunction::Sha256Tree)),
        (10, None, 40, Ok(DigestFunction::GitSha1)),
        (0, None, 0, Err(WireError::HashLengthUnknown(0))),
        (0, preferred, 63, Err(WireError::HashLengthUnknown(63))),
        (4, None, 66, Err(WireError::FunctionUnsupported("VSO"))),
        (7, None, 32, Err(WireError::FunctionUnsupported("MURMUR3"))),
        (11, None, 64, Err(WireError::FunctionUnknown(11))),
        (-1, None, 64, Err(WireError::FunctionUnknown(-1))),
        (i32::MAX, None, 64, Err(WireError::FunctionUnknown(i32::MAX))),
    ] {
        let found = FunctionRule::of_request(field, preferred).and_then(|rule| rule.function(hash_chars));
        assert_eq!(found, expected, "field {field}, preferred {preferred:?}, {hash_chars} characters");
    }
}

#[test]
fn malformed_digests_are_refused() {
    let uppercase = SHA256.to_uppercase();
    let with_slash = format!("{}/{}", &SHA256[..31], &SHA256[32..]);
    let with_nul = format!("\0{}", &SHA256[1..]);
    let rule = FunctionRule::INFERRED;
    for (hash, size_bytes, expected) in [
        (SHA256, -1, WireError::Digest(DigestError::NegativeSize(-1))),
        (SHA256, i64::MIN, WireError::Digest(DigestError::NegativeSize(i64::MIN))),
        (&uppercase, 0, WireError::Digest(DigestError::NotHex)),
        (&with_slash, 0, WireError::Digest(DigestError::NotHex)),
        (&with_nul, 0, WireError::Digest(DigestError::NotHex)),
        ("", 0, WireError::HashLengthUnknown(0)),
        (&SHA256[..63], 0, WireError::HashLengthUnknown(63)),
    ] {
        assert_eq!(rule.from_wire(&wire(hash, size_bytes)), Err(expected), "{hash:?} {size_bytes}");
    }
    let named = FunctionRule::Named(DigestFunction::Sha1).from_wire(&wire(SHA256, 0));
    let expected = DigestError::HashLength { function: DigestFunction::Sha1, found: 64, expected: 40 };
    assert_eq!(named, Err(WireError::Digest(expected)));
    assert_eq!(rule.from_wire_field("root_digest", None), Err(WireError::DigestUnset("root_digest")));
}

#[test]
fn digests_of_every_function_survive_the_wire() {
    for function in DigestFunction::ALL {
        let hash: Vec<u8> = (0..function.hash_length_bytes()).map(|position| position as u8 ^ 0xa5).collect();
        let digest = cask_index::Digest::new(function, &hash, 1 << 40).expect("the hash has the right length");
        let message = to_wire(&digest);
        let rule = FunctionRule::of_request(function_field(function), None).expect("a supported function");
        assert_eq!(rule.from_wire(&message), Ok(digest));

        let unnamed = FunctionRule::INFERRED.from_wire(&message).expect("every length is known").function();
        assert_eq!(unnamed == function, is_inferred_by_length(function), "{function:?} read as {unnamed:?}");
        assert_eq!(function.name().to_uppercase(), reapi_name(function), "named as in the API");
    }
}

fn reapi_name(function: DigestFunction) -> &'static str {
    reapi::digest_function::Value::try_from(function_field(function)).expect("a number of the API").as_str_name()
}
