//! Shell around [`cask_fuzz::engine_operations`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    cask_fuzz::engine_operations(data);
});
