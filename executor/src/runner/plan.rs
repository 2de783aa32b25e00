//! What the runner and a supervisor tell each other: the plan of a run on the supervisor's standard input, its report on the
//! standard output. Both ends are the same binary, so the encoding is nobody else's business.
//!
//! ```text
//! runner --length, Plan--> supervisor      the pipe then stays open: its end means "kill everything and report"
//! runner <-----Report----- supervisor      after the last process of the run is gone
//! ```

use std::collections::BTreeMap;

use prost::Message;

/// Everything a supervisor needs. Paths with "relative" in their description are so to `build_dir`, checked lexically before.
#[derive(Clone, PartialEq, Message)]
#[expect(clippy::struct_excessive_bools, reason = "a message, with the names of what may be asked for")]
pub(super) struct Plan {
    #[prost(enumeration = "PlanLevel", tag = "1")]
    pub(super) level: i32,
    /// Absolute, without symbolic links.
    #[prost(string, tag = "2")]
    pub(super) build_dir: String,
    /// Relative; never empty.
    #[prost(string, tag = "3")]
    pub(super) input_root: String,
    /// Relative to the input root; empty for the root itself.
    #[prost(string, tag = "4")]
    pub(super) working_directory: String,
    /// Relative.
    #[prost(string, tag = "5")]
    pub(super) stdout: String,
    #[prost(string, tag = "6")]
    pub(super) stderr: String,
    /// Relative; empty for none.
    #[prost(string, tag = "7")]
    pub(super) temporary: String,
    #[prost(string, tag = "8")]
    pub(super) server_logs: String,
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub(super) arguments: Vec<Vec<u8>>,
    #[prost(btree_map = "string, string", tag = "10")]
    pub(super) environment: BTreeMap<String, String>,
    /// The user and group the command gets, for a supervisor that is root; unset: its own.
    #[prost(uint32, optional, tag = "11")]
    pub(super) own_id: Option<u32>,
    /// Processes that an earlier run of this user may have left are killed first.
    #[prost(bool, tag = "12")]
    pub(super) sweep_first: bool,
    #[prost(bool, tag = "13")]
    pub(super) network: bool,
    #[prost(bool, tag = "14")]
    pub(super) root_is_filesystem_root: bool,
    /// What the command believes to be.
    #[prost(uint32, tag = "15")]
    pub(super) inner_user: u32,
    #[prost(uint32, tag = "16")]
    pub(super) inner_group: u32,
    #[prost(uint64, tag = "17")]
    pub(super) open_files_max: u64,
    /// 0: no limit.
    #[prost(uint64, tag = "18")]
    pub(super) processes_max: u64,
    /// Absolute; a sandbox does not see what is in them.
    #[prost(string, repeated, tag = "19")]
    pub(super) hidden: Vec<String>,
    /// Absolute; a sandbox sees them although they are in a hidden one.
    #[prost(string, repeated, tag = "20")]
    pub(super) shown: Vec<String>,
    /// The control group that the command enters: its `cgroup.procs`, absolute; empty for none.
    #[prost(string, tag = "21")]
    pub(super) cgroup_procs: String,
    /// Everything is set up and nothing executed: does this level work here?
    #[prost(bool, tag = "22")]
    pub(super) probe: bool,
    #[prost(message, optional, tag = "23")]
    pub(super) container: Option<ContainerPlan>,
}

/// The part of a plan for the container level.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ContainerPlan {
    /// Its client program.
    #[prost(string, tag = "1")]
    pub(super) engine: String,
    #[prost(string, tag = "2")]
    pub(super) image: String,
    /// Unique among all containers of this engine.
    #[prost(string, tag = "3")]
    pub(super) name: String,
    /// 0: no limit.
    #[prost(uint64, tag = "4")]
    pub(super) memory_bytes_max: u64,
    /// Thousandths of a processor; 0: no limit.
    #[prost(uint64, tag = "5")]
    pub(super) cpu_millis_max: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum PlanLevel {
    Host = 0,
    Sandbox = 1,
    Container = 2,
    /// No run: all processes of `own_id` are killed.
    Sweep = 3,
}

/// How a run ended.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Report {
    #[prost(oneof = "Ending", tags = "1, 2, 3, 4, 5")]
    pub(super) ending: Option<Ending>,
    #[prost(message, optional, tag = "6")]
    pub(super) usage: Option<UsageReport>,
    /// Names in the input root that were made to mount something on, and that the runner removes.
    #[prost(string, repeated, tag = "7")]
    pub(super) mount_points: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Ending {
    /// The command ended by itself, with this code.
    #[prost(int32, tag = "1")]
    Exited(i32),
    /// A signal ended it.
    #[prost(int32, tag = "2")]
    Signalled(i32),
    /// The request cannot be run as it is, whoever tries: a sentence.
    #[prost(string, tag = "3")]
    Refused(String),
    /// The machine could not: a sentence.
    #[prost(string, tag = "4")]
    Failed(String),
    /// The runner asked for the end before the command came to its own.
    #[prost(bool, tag = "5")]
    Stopped(bool),
}

/// `kernel::Usage` on its way.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct UsageReport {
    #[prost(uint64, tag = "1")]
    pub(super) user_ns: u64,
    #[prost(uint64, tag = "2")]
    pub(super) system_ns: u64,
    #[prost(int64, tag = "3")]
    pub(super) resident_bytes_max: i64,
    #[prost(int64, tag = "4")]
    pub(super) page_reclaims: i64,
    #[prost(int64, tag = "5")]
    pub(super) page_faults: i64,
    #[prost(int64, tag = "6")]
    pub(super) swaps: i64,
    #[prost(int64, tag = "7")]
    pub(super) block_inputs: i64,
    #[prost(int64, tag = "8")]
    pub(super) block_outputs: i64,
    #[prost(int64, tag = "9")]
    pub(super) messages_sent: i64,
    #[prost(int64, tag = "10")]
    pub(super) messages_received: i64,
    #[prost(int64, tag = "11")]
    pub(super) signals_received: i64,
    #[prost(int64, tag = "12")]
    pub(super) voluntary_switches: i64,
    #[prost(int64, tag = "13")]
    pub(super) involuntary_switches: i64,
}
