//! Shell around [`cask_fuzz::touch_snapshot`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    cask_fuzz::touch_snapshot(data);
});
