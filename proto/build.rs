//! Compiles the declarations under `proto/` in pure Rust (protox instead of protoc), once, into the generated modules
//! and the descriptor set that server reflection hands out.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

/// The roots; what they import is compiled with them.
const ROOT_FILES: [&str; 14] = [
    "build/bazel/remote/asset/v1/remote_asset.proto",
    "build/bazel/remote/execution/v2/remote_execution.proto",
    "build/bazel/remote/logstream/v1/remote_logstream.proto",
    "build/bazel/semver/semver.proto",
    "buildbarn/resourceusage/resourceusage.proto",
    "buildbarn/runner/runner.proto",
    "cask/queue/v1/journal.proto",
    "cask/runner/v1/options.proto",
    "cask/worker/v1/worker.proto",
    "google/devtools/remoteworkers/v1test2/bots.proto",
    "google/bytestream/bytestream.proto",
    "google/longrunning/operations.proto",
    "google/rpc/error_details.proto",
    "google/rpc/status.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);

    // Without source info: the declarations carry names and numbers only, and reflection needs no line numbers.
    let descriptors = protox::Compiler::new(["proto"])?
        .include_imports(true)
        .include_source_info(false)
        .open_files(ROOT_FILES)?
        .file_descriptor_set();
    fs::write(out_dir.join("descriptors.bin"), descriptors.encode_to_vec())?;

    let mut config = tonic_prost_build::Config::new();
    // Every message knows its full name, so that it can be packed into an `Any` with the URL that clients look for.
    config.enable_type_names().type_name_domain(["."], "type.googleapis.com");
    tonic_prost_build::configure()
        // `Bytes` everywhere: under tonic a payload is decoded as a slice of the receive buffer, not copied.
        .bytes(".")
        // Sorted maps: the same message always encodes to the same bytes.
        .btree_map(".")
        .codec_path("crate::codec::StrictCodec")
        .include_file("packages.rs")
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}
