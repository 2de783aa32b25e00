//! Shell around [`cask_fuzz::record`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    cask_fuzz::record(data);
});
