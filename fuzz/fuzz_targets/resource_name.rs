//! Shell around [`cask_fuzz::resource_name`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    cask_fuzz::resource_name(data);
});
