//! Shell around [`cask_fuzz::footer`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    cask_fuzz::footer(data);
});
