//! Shell around [`cask_fuzz::wire_get_action_result`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    cask_fuzz::wire_get_action_result(data);
});
