//! Shell around [`cask_fuzz::zstd_stream`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    cask_fuzz::zstd_stream(data);
});
