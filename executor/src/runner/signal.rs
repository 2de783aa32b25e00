//! Names of signals, as Buildbarn's resource usage has them: without `SIG`.

const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

/// The name of a signal of Linux, or its number for one without.
pub(super) fn name(signal: i32) -> String {
    usize::try_from(signal - 1)
        .ok()
        .and_then(|index| NAMES.get(index))
        .map_or_else(|| signal.to_string(), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn signals_have_the_names_of_linux() {
        for (signal, name) in
            [(1, "HUP"), (6, "ABRT"), (9, "KILL"), (11, "SEGV"), (15, "TERM"), (31, "SYS"), (34, "34"), (0, "0")]
        {
            assert_eq!(super::name(signal), name);
        }
    }
}
