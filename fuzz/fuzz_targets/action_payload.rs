//! Shell around [`cask_fuzz::action_payload`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    cask_fuzz::action_payload(data);
});
