//! What a queue costs: a test of its own process, because it asks the kernel how large the process is.

use std::time::{Duration, SystemTime};

use cask_executor::scheduler::{Now, Options, Scheduler, Submission};
use cask_index::{Digest, DigestFunction};
use cask_proto::InstanceName;
use cask_proto::reapi::{self, platform::Property};

const ACTIONS: u64 = 100_000;
const BYTES_AN_ACTION_MAX: u64 = 2048;

/// Anonymous memory that is resident.
fn memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the kernel's account");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("a line about memory");
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    kib.expect("a number") * 1024
}

/// As Bazel sends it; `invocations` builds take turns.
fn submission(number: u64, invocations: u64) -> Submission {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    let property = |(name, value): (&str, &str)| Property { name: name.to_owned(), value: value.to_owned() };
    let image = "docker://registry.example.org/toolchain@sha256:0123456789abcdef0123456789abcdef";
    let properties = [("ISA", "x86-64"), ("OSFamily", "linux"), ("container-image", image)];
    Submission {
        instance: InstanceName::EMPTY,
        action: Digest::new(DigestFunction::Sha256, &hash, 147).expect("a hash of that length"),
        platform: reapi::Platform { properties: properties.into_iter().map(property).collect() },
        priority: 0,
        timeout: Duration::from_secs(600),
        do_not_cache: false,
        skip_cache_lookup: false,
        request_metadata: reapi::RequestMetadata {
            tool_details: Some(reapi::ToolDetails { tool_name: "bazel".to_owned(), tool_version: "8.0.0".to_owned() }),
            action_id: format!("{number:064x}"),
            tool_invocation_id: format!("5b8efff8-1a35-4bd3-8d4b-{:012x}", number % invocations),
            correlated_invocations_id: format!("0f4a3c2e-7b11-4c37-9a44-{:012x}", number % invocations),
            action_mnemonic: "CppCompile".to_owned(),
            target_id: format!("//some/package/of/usual/depth:target_{}", number / 10),
            configuration_id: format!("{:064x}", 7),
        },
    }
}

#[test]
fn a_queued_action_costs_at_most_two_kibibytes() {
    for invocations in [20, ACTIONS] {
        let mut state = 1_u128;
        let random = move || {
            state = state.wrapping_mul(0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645).wrapping_add(1);
            state ^ (state >> 64)
        };
        let mut scheduler = Scheduler::new(Options::default(), Box::new(random));
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let before = memory_bytes();
        for number in 0..ACTIONS {
            let now = Now { monotonic: Duration::from_micros(number), wall };
            scheduler.execute(&now, submission(number, invocations)).expect("room");
            drop(scheduler.take_effects());
        }
        let bytes = memory_bytes().saturating_sub(before) / ACTIONS;
        println!("{bytes} bytes a queued action, {invocations} invocations");
        assert_eq!(scheduler.counts().queued as u64, ACTIONS);
        assert!(bytes <= BYTES_AN_ACTION_MAX, "{bytes} bytes a queued action, {invocations} invocations");
        if invocations == 20 {
            // What the first gave back must not be counted for the second.
            std::mem::forget(scheduler);
        }
    }
}
