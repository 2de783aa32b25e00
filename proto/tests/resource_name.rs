//! Resource names and instance names: the rows that other servers got wrong, and the round trip of everything else.

use cask_index::{Digest, DigestError, DigestFunction};
use cask_proto::{Compressor, InstanceName, ReadName, UploadId, WireError, WriteName, digest::FunctionRule};
use proptest::{prelude::*, test_runner::RngSeed};

const MD5: &str = "d41d8cd98f00b204e9800998ecf8427e";
const SHA1: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
const SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const UUID: &str = "0e7b6f2c-7f3f-4a0b-9c57-0d1d2a5b1c11";

/// Rows are written with H for a SHA-256 hash, S for a SHA-1, M for an MD5 and U for a UUID, each as a whole segment.
fn spell(row: &str) -> String {
    let spelled = row.split('/').map(|segment| match segment {
        "H" => SHA256,
        "S" => SHA1,
        "M" => MD5,
        "U" => UUID,
        "H384" => "38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b",
        "H512" => concat!(
            "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce",
            "47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"
        ),
        other => other,
    });
    spelled.collect::<Vec<_>>().join("/")
}

/// A parsed name in a few words: instance|function|compressor|size.
fn describe(instance: &InstanceName, digest: &Digest, compressor: Compressor) -> String {
    format!("{instance}|{}|{}|{}", digest.function().name(), compressor.name(), digest.size_bytes())
}

fn read(row: &str) -> Result<String, WireError> {
    ReadName::parse(&spell(row)).map(|name| describe(&name.instance, &name.digest, name.compressor))
}

fn write(row: &str) -> Result<String, WireError> {
    WriteName::parse(&spell(row)).map(|name| describe(&name.instance, &name.digest, name.compressor))
}

#[test]
fn read_names_that_are_accepted() {
    for (row, expected) in [
        ("blobs/H/0", "|sha256|identity|0"),
        ("blobs/H/9223372036854775807", "|sha256|identity|9223372036854775807"),
        ("main/blobs/H/5", "main|sha256|identity|5"),
        ("a/b/c/blobs/H/5", "a/b/c|sha256|identity|5"),
        // Words are reserved as whole segments, and in their exact spelling.
        ("blobs2/Blobs/actionresults/blobs/H/5", "blobs2/Blobs/actionresults|sha256|identity|5"),
        ("sha256/blobs/H/5", "sha256|sha256|identity|5"),
        ("b\u{fc}ro/blobs/H/5", "b\u{fc}ro|sha256|identity|5"),
        // The function follows from the length...
        ("blobs/M/5", "|md5|identity|5"),
        ("blobs/S/5", "|sha1|identity|5"),
        ("blobs/H384/5", "|sha384|identity|5"),
        ("blobs/H512/5", "|sha512|identity|5"),
        // ...or is named where the length is ambiguous.
        ("blobs/blake3/H/5", "|blake3|identity|5"),
        ("blobs/sha256tree/H/5", "|sha256tree|identity|5"),
        ("blobs/gitsha1/S/5", "|gitsha1|identity|5"),
        ("main/compressed-blobs/zstd/H/5", "main|sha256|zstd|5"),
        ("compressed-blobs/deflate/H/5", "|sha256|deflate|5"),
        ("compressed-blobs/brotli/S/5", "|sha1|brotli|5"),
        ("compressed-blobs/zstd/blake3/H/5", "|blake3|zstd|5"),
    ] {
        assert_eq!(read(row).as_deref(), Ok(expected), "{row}");
        let name = ReadName::parse(&spell(row)).expect("accepted above");
        assert_eq!(name.to_string(), spell(row), "a read name has one spelling");
    }
}

#[test]
fn write_names_that_are_accepted() {
    for (row, expected) in [
        ("uploads/U/blobs/H/5", "|sha256|identity|5"),
        ("a/b/uploads/U/blobs/H/5", "a/b|sha256|identity|5"),
        ("uploads/U/blobs/blake3/H/5", "|blake3|identity|5"),
        ("a/uploads/U/compressed-blobs/zstd/H/5", "a|sha256|zstd|5"),
        ("uploads/U/compressed-blobs/zstd/blake3/H/5", "|blake3|zstd|5"),
        // What follows the size is the client's own business, reserved words included.
        ("uploads/U/blobs/H/5/foo/bar", "|sha256|identity|5"),
        ("uploads/U/blobs/H/5/", "|sha256|identity|5"),
        ("uploads/U/blobs/H/5//..//x", "|sha256|identity|5"),
        ("uploads/U/compressed-blobs/zstd/H/5/uploads/blobs/1", "|sha256|zstd|5"),
        // Upload ids are not interpreted: not every client sends a UUID.
        ("uploads/not-a-uuid/blobs/H/5", "|sha256|identity|5"),
        ("uploads/0/blobs/H/5", "|sha256|identity|5"),
    ] {
        assert_eq!(write(row).as_deref(), Ok(expected), "{row}");
    }
}

/// The kind of an error, for rows: the texts and echoed excerpts are tested once, below.
fn kind(error: &WireError) -> &'static str {
    match error {
        WireError::Digest(DigestError::HashLength { .. }) => "hash length",
        WireError::Digest(DigestError::NotHex) => "not hex",
        WireError::Digest(DigestError::NegativeSize(_)) => "negative",
        WireError::FunctionUnsupported(_) => "unsupported",
        WireError::HashLengthUnknown(_) => "unknown length",
        WireError::FunctionMustBeOmitted(_) => "omit",
        WireError::CompressorNameUnknown(_) => "compressor",
        WireError::SizeMalformed(_) => "size",
        WireError::InstanceTooLong { .. } => "too long",
        WireError::InstanceReserved(_) => "reserved",
        WireError::InstanceSegmentEmpty(_) => "empty segment",
        WireError::InstanceSegmentForbidden(_) => "forbidden",
        WireError::UploadIdMalformed(_) => "upload id",
        WireError::NotAReadName(_) => "not a read name",
        WireError::NotAWriteName(_) => "not a write name",
        _ => "other",
    }
}

fn check_refused(parse: impl Fn(&str) -> Result<String, WireError>, rows: &[(&str, &str)]) {
    for (row, expected) in rows {
        match parse(row) {
            Ok(name) => panic!("{row:?} was accepted as {name}"),
            Err(error) => assert_eq!(kind(&error), *expected, "{row:?}: {error}"),
        }
    }
}

#[test]
fn read_names_that_are_refused() {
    let uppercase = format!("blobs/{}/5", SHA256.to_uppercase());
    let with_slash = format!("blobs/{}/{}/5", &SHA256[..31], &SHA256[32..]);
    let with_dots = format!("blobs/..{}/5", &SHA256[2..]);
    let with_nul = format!("blobs/\0{}/5", &SHA256[1..]);
    let with_umlaut = format!("blobs/\u{e4}{}/5", &SHA256[2..]);
    let not_hex = format!("blobs/g{}/5", &SHA256[1..]);
    let one_short = format!("blobs/{}/5", &SHA256[1..]);
    let one_long = format!("blobs/{SHA256}0/5");
    let long_instance = format!("{}/blobs/H/5", "x".repeat(257));
    check_refused(
        read,
        &[
            ("", "not a read name"),
            ("/", "not a read name"),
            ("junk", "not a read name"),
            ("H/5", "not a read name"),
            ("blobs", "not a read name"),
            ("blobs/", "not a read name"),
            ("blobs/H", "not a read name"),
            ("blobs//5", "unknown length"),
            ("blobs/H/", "size"),
            ("blobs/H/5/", "not a read name"),
            ("blobs/H/5/name.txt", "not a read name"),
            ("blobs/blake3/H", "not a read name"),
            ("blobs/blake3/H/5/6", "not a read name"),
            ("uploads/U/blobs/H/5", "not a read name"),
            ("actions/blobs/H/5", "not a read name"),
            ("compressed-blobs/zstd", "not a read name"),
            ("compressed-blobs/zstd/H", "not a read name"),
            // Sizes.
            ("blobs/H/abc", "size"),
            ("blobs/H/-1", "size"),
            ("blobs/H/+1", "size"),
            ("blobs/H/05", "size"),
            ("blobs/H/00", "size"),
            ("blobs/H/5 ", "size"),
            ("blobs/H/0x5", "size"),
            ("blobs/H/\u{0665}", "size"),
            ("blobs/H/9223372036854775808", "size"),
            // Hashes.
            (&uppercase, "not hex"),
            (&with_slash, "unknown length"),
            (&with_dots, "not hex"),
            (&with_nul, "not hex"),
            (&with_umlaut, "not hex"),
            (&not_hex, "not hex"),
            (&one_short, "unknown length"),
            (&one_long, "unknown length"),
            // Functions.
            ("blobs/sha256/H/5", "omit"),
            ("blobs/sha1/S/5", "omit"),
            ("blobs/md5/M/5", "omit"),
            ("blobs/sha384/H384/5", "omit"),
            ("blobs/sha512/H512/5", "omit"),
            ("compressed-blobs/zstd/sha256/H/5", "omit"),
            ("blobs/murmur3/M/5", "unsupported"),
            ("blobs/vso/H/5", "unsupported"),
            ("blobs/BLAKE3/H/5", "unknown length"),
            ("blobs/blake3/S/5", "hash length"),
            ("blobs/gitsha1/H/5", "hash length"),
            // Compressors.
            ("compressed-blobs/identity/H/5", "compressor"),
            ("compressed-blobs/ZSTD/H/5", "compressor"),
            ("compressed-blobs/lz4/H/5", "compressor"),
            ("compressed-blobs//H/5", "compressor"),
            ("compressed-blobs/H/5", "compressor"),
            ("blobs/zstd/H/5", "unknown length"),
            // Instances.
            ("/blobs/H/5", "empty segment"),
            ("//blobs/H/5", "empty segment"),
            ("a//blobs/H/5", "empty segment"),
            ("/a/blobs/H/5", "empty segment"),
            ("a//b/blobs/H/5", "empty segment"),
            ("../blobs/H/5", "forbidden"),
            ("a/./blobs/H/5", "forbidden"),
            ("a\n/blobs/H/5", "forbidden"),
            ("a\0/blobs/H/5", "forbidden"),
            ("a/blobs/b/blobs/H/5", "unknown length"),
            ("a/uploads/blobs/H/5", "not a read name"),
            ("a/actionResults/blobs/H/5", "not a read name"),
            (&long_instance, "too long"),
        ],
    );
}

#[test]
fn write_names_that_are_refused() {
    let long_id = format!("uploads/{}/blobs/H/5", "x".repeat(129));
    check_refused(
        write,
        &[
            ("", "not a write name"),
            ("uploads", "not a write name"),
            ("uploads/U", "not a write name"),
            ("uploads/U/H/5", "not a write name"),
            ("uploads/U/blobs/H", "not a write name"),
            ("uploads/U/blobs/H/x", "size"),
            ("uploads/U/blobs/sha256/H/5", "omit"),
            ("uploads/U/compressed-blobs/H/5", "compressor"),
            ("uploads/U/compressed-blobs/identity/H/5", "compressor"),
            ("uploads/U/Blobs/H/5", "not a write name"),
            ("blobs/H/5", "not a write name"),
            ("operations/U/blobs/H/5", "not a write name"),
            ("/uploads/U/blobs/H/5", "empty segment"),
            ("uploads//blobs/H/5", "upload id"),
            // The id was left out.
            ("uploads/blobs/H/5", "upload id"),
            ("uploads/a b/blobs/H/5", "upload id"),
            ("uploads/\u{e4}/blobs/H/5", "upload id"),
            (&long_id, "upload id"),
        ],
    );
}

#[test]
fn instance_names() {
    for name in ["", "main", "a/b", "ac", "cas", "v2.1_x", "..."] {
        assert_eq!(InstanceName::parse(name).expect(name).as_str(), name);
    }
    for word in ["blobs", "uploads", "actions", "actionResults", "operations", "capabilities", "compressed-blobs"] {
        for name in [word.to_owned(), format!("{word}/a"), format!("a/{word}"), format!("a/{word}/b")] {
            let error = InstanceName::parse(&name).expect_err(&name);
            assert_eq!(kind(&error), "reserved", "{name}");
        }
    }
    let long = "x".repeat(InstanceName::LENGTH_BYTES_MAX + 1);
    for name in ["/", "/a", "a/", "a//b", "..", "a/..", ".", "a\tb", &long] {
        InstanceName::parse(name).expect_err(name);
    }
}

#[test]
fn an_instance_may_prefer_a_function_for_hashes_that_name_none() {
    let prefers_blake3 = |_: &InstanceName| FunctionRule::ByHashLength { preferred: Some(DigestFunction::Blake3) };
    for (row, expected) in [
        ("blobs/H/5", DigestFunction::Blake3),
        ("blobs/S/5", DigestFunction::Sha1),
        ("blobs/sha256tree/H/5", DigestFunction::Sha256Tree),
    ] {
        let name = ReadName::parse_with(&spell(row), prefers_blake3).expect(row);
        assert_eq!(name.digest.function(), expected, "{row}");
    }
    let asked = std::cell::RefCell::new(String::new());
    WriteName::parse_with(&spell("a/b/uploads/U/blobs/H/5"), |instance| {
        instance.as_str().clone_into(&mut asked.borrow_mut());
        FunctionRule::INFERRED
    })
    .expect("well-formed");
    assert_eq!(asked.into_inner(), "a/b");
}

#[test]
fn errors_say_what_to_write_and_repeat_little_of_the_input() {
    let text = |row: &str| ReadName::parse(&spell(row)).expect_err(row).to_string();
    assert_eq!(
        text("blobs/sha256/H/5"),
        "`sha256/` must be left out of the resource name: the hash's length says it already"
    );
    assert_eq!(text("compressed-blobs/lz4/H/5"), "`lz4` is not a compressor; known are zstd, deflate and brotli");
    assert_eq!(text("blobs/H/5k"), "size `5k` is not a decimal number of bytes");
    let long = text(&format!("{}\u{7}", "y".repeat(100_000)));
    assert!(long.len() < 400 && !long.contains('\u{7}'), "{long}");
}

fn any_digest() -> impl Strategy<Value = Digest> {
    let function = prop::sample::select(DigestFunction::ALL.as_slice());
    (function, prop::collection::vec(any::<u8>(), 64), 0..=i64::MAX.cast_unsigned()).prop_map(
        |(function, hash, size_bytes)| {
            Digest::new(function, &hash[..function.hash_length_bytes()], size_bytes)
                .expect("the hash has the right length")
        },
    )
}

fn any_instance() -> impl Strategy<Value = InstanceName> {
    // Mostly ordinary segments, sometimes a reserved word: those are filtered by the parser itself.
    let segment = prop_oneof![8 => "[a-zA-Z0-9._\u{e4}-]{1,12}", 1 => "(blobs|uploads|actions|sha256|zstd)"];
    prop::collection::vec(segment, 0..4)
        .prop_filter_map("not an instance name", |segments| InstanceName::parse(&segments.join("/")).ok())
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(0xca5c), failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn a_printed_read_name_parses_to_itself(
        instance in any_instance(), digest in any_digest(),
        compressor in prop::sample::select(Compressor::ALL.as_slice()),
    ) {
        let name = ReadName { instance, digest, compressor };
        prop_assert_eq!(ReadName::parse(&name.to_string()), Ok(name));
    }

    #[test]
    fn a_printed_write_name_parses_to_itself(
        instance in any_instance(), id in "[!-.0-~]{1,128}", digest in any_digest(),
        compressor in prop::sample::select(Compressor::ALL.as_slice()), ignored in "(/.{0,20})?",
    ) {
        let name = WriteName { instance, upload_id: UploadId::parse(&id).expect("plain"), digest, compressor };
        prop_assert_eq!(WriteName::parse(&format!("{name}{ignored}")), Ok(name));
    }
}
