//! Which of our types stands beside which of theirs, and what a type makes of some bytes.

use std::fmt::Debug;

use cask_proto::{FILE_DESCRIPTOR_SET, asset, bytestream, logstream, longrunning, reapi, rpc, semver};
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, EnumDescriptor, MessageDescriptor};

/// What a type made of some bytes.
#[derive(Debug, PartialEq)]
pub(crate) struct Seen {
    /// Encoded again; unknown fields are gone.
    pub(crate) bytes: Vec<u8>,
    /// Names of types and fields, and values, as printed; sorted.
    pub(crate) words: Vec<String>,
}

/// Decodes, and encodes again; `None` when the bytes are refused.
pub(crate) type See = fn(&[u8]) -> Option<Seen>;

pub(crate) struct MessagePair {
    pub(crate) full_name: String,
    pub(crate) ours: See,
    pub(crate) theirs: See,
}

pub(crate) struct EnumPair {
    pub(crate) full_name: String,
    pub(crate) ours: fn(i32) -> Option<&'static str>,
    pub(crate) theirs: fn(i32) -> Option<&'static str>,
}

fn see<M: Message + Default + Debug>(bytes: &[u8]) -> Option<Seen> {
    let message = M::decode(bytes).ok()?;
    // Ours holds `Bytes` and unwrapped wrappers where theirs holds `Vec<u8>` and messages: the empty ones are spelled
    // alike here, others are compared by `bytes`. Sorted words, because the order of declarations is free.
    let text = format!("{message:?}").replace("b\"\"", "[]").replace("UInt32Value { value: 0 }", "0");
    let mut words: Vec<String> = text.split([',', '{', '}', '(', ')', ' ']).map(str::to_owned).collect();
    words.sort();
    Some(Seen { bytes: message.encode_to_vec(), words })
}

/// Messages and enums that have the same path below `$ours` and `$theirs`.
macro_rules! pairs {
    ($messages:ident, $enums:ident, $ours:path, $theirs:path;
        messages { $($($message:ident)::+),* $(,)? }
        enums { $($name:literal => $($value:ident)::+),* $(,)? }
    ) => {{
        #[allow(unused_imports)]
        use {$ours as ours, $theirs as theirs};
        $($messages.push(MessagePair {
            full_name: <ours::$($message)::+ as Name>::full_name(),
            ours: see::<ours::$($message)::+>,
            theirs: see::<theirs::$($message)::+>,
        });)*
        $($enums.push(EnumPair {
            full_name: format!("build.bazel.remote.execution.v2.{}", $name),
            ours: |number| ours::$($value)::+::try_from(number).ok().map(|value| value.as_str_name()),
            theirs: |number| theirs::$($value)::+::try_from(number).ok().map(|value| value.as_str_name()),
        });)*
    }};
}

pub(crate) fn all() -> (Vec<MessagePair>, Vec<EnumPair>) {
    let (mut messages, mut enums) = (Vec::new(), Vec::new());
    pairs! { messages, enums, reapi, bazel_remote_apis::build::bazel::remote::execution::v2;
        messages {
            Action, Command, command::EnvironmentVariable, Platform, platform::Property, Directory, NodeProperty,
            NodeProperties, FileNode, DirectoryNode, SymlinkNode, Digest, ExecutedActionMetadata, ActionResult,
            OutputFile, Tree, OutputDirectory, OutputSymlink, ExecutionPolicy, ResultsCachePolicy, ExecuteRequest,
            LogFile, ExecuteResponse, ExecutionStage, ExecuteOperationMetadata, WaitExecutionRequest,
            GetActionResultRequest, UpdateActionResultRequest, FindMissingBlobsRequest, FindMissingBlobsResponse,
            BatchUpdateBlobsRequest, batch_update_blobs_request::Request, BatchUpdateBlobsResponse,
            batch_update_blobs_response::Response, BatchReadBlobsRequest, BatchReadBlobsResponse,
            batch_read_blobs_response::Response, GetTreeRequest, GetTreeResponse, SplitBlobRequest, SplitBlobResponse,
            GetChunkMappingRequest, GetChunkMappingResponse, SpliceBlobRequest, SpliceBlobResponse,
            RegisterChunkMappingRequest, RegisterChunkMappingResponse, GetCapabilitiesRequest, ServerCapabilities,
            DigestFunction, ChunkingFunction, ActionCacheUpdateCapabilities, PriorityCapabilities,
            priority_capabilities::PriorityRange, SymlinkAbsolutePathStrategy, Compressor, CacheCapabilities,
            FastCdc2020Params, RepMaxCdcParams, ExecutionCapabilities, ToolDetails, RequestMetadata,
        }
        enums {
            "Command.OutputDirectoryFormat" => command::OutputDirectoryFormat,
            "ExecutionStage.Value" => execution_stage::Value,
            "DigestFunction.Value" => digest_function::Value,
            "ChunkingFunction.Value" => chunking_function::Value,
            "SymlinkAbsolutePathStrategy.Value" => symlink_absolute_path_strategy::Value,
            "Compressor.Value" => compressor::Value,
        }
    }
    pairs! { messages, enums, logstream, bazel_remote_apis::build::bazel::remote::logstream::v1;
        messages { CreateLogStreamRequest, LogStream }
        enums {}
    }
    pairs! { messages, enums, asset, bazel_remote_apis::build::bazel::remote::asset::v1;
        messages {
            Qualifier, FetchBlobRequest, FetchBlobResponse, FetchDirectoryRequest, FetchDirectoryResponse,
            PushBlobRequest, PushBlobResponse, PushDirectoryRequest, PushDirectoryResponse,
        }
        enums {}
    }
    pairs! { messages, enums, semver, bazel_remote_apis::build::bazel::semver; messages { SemVer } enums {} }
    pairs! { messages, enums, bytestream, bazel_remote_apis::google::bytestream;
        messages {
            ReadRequest, ReadResponse, WriteRequest, WriteResponse, QueryWriteStatusRequest, QueryWriteStatusResponse,
        }
        enums {}
    }
    pairs! { messages, enums, longrunning, bazel_remote_apis::google::longrunning;
        messages {
            Operation, GetOperationRequest, ListOperationsRequest, ListOperationsResponse, CancelOperationRequest,
            DeleteOperationRequest, WaitOperationRequest, OperationInfo,
        }
        enums {}
    }
    pairs! { messages, enums, rpc, bazel_remote_apis::google::rpc; messages { Status } enums {} }
    pairs! { messages, enums, rpc, tonic_types::pb;
        messages {
            ErrorInfo, RetryInfo, DebugInfo, QuotaFailure, quota_failure::Violation, PreconditionFailure,
            precondition_failure::Violation, BadRequest, bad_request::FieldViolation, RequestInfo, ResourceInfo, Help,
            help::Link, LocalizedMessage,
        }
        enums {}
    }
    (messages, enums)
}

pub(crate) fn pool() -> DescriptorPool {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the descriptor set of the build script")
}

/// Whether a package of ours stands beside an independent one. Cask's own protocols have none; that of BuildGrid's workers is held
/// against its published stubs with the real clients, and Buildbarn's runner has no generated types in Rust.
pub(crate) fn has_counterpart(package: &str) -> bool {
    let without = ["google.protobuf", "google.devtools.remoteworkers.v1test2"];
    !without.contains(&package) && !package.starts_with("cask.") && !package.starts_with("buildbarn.")
}

/// Every message we declare: not the well-known types, which come from a crate, and not the entries of maps, which are
/// no types in Rust.
pub(crate) fn declared_messages(pool: &DescriptorPool) -> Vec<MessageDescriptor> {
    let is_ours = |message: &MessageDescriptor| has_counterpart(message.package_name()) && !message.is_map_entry();
    pool.all_messages().filter(is_ours).collect()
}

/// Every enum we declare.
pub(crate) fn declared_enums(pool: &DescriptorPool) -> Vec<EnumDescriptor> {
    pool.all_enums().filter(|declared| has_counterpart(declared.package_name())).collect()
}
