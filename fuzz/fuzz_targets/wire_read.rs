//! Shell around [`cask_fuzz::wire_read`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    cask_fuzz::wire_read(data);
});
