//! Shell around [`cask_fuzz::segment_header`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    cask_fuzz::segment_header(data);
});
