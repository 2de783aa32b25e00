//! Shell around [`cask_fuzz::wire_batch_read`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    cask_fuzz::wire_batch_read(data);
});
