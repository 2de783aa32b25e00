//! Shell around [`cask_fuzz::superblock`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    cask_fuzz::superblock(data);
});
