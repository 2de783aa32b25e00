//! Shell around [`cask_fuzz::proto_digest`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    cask_fuzz::proto_digest(data);
});
