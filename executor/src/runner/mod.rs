//! The runner: a process of its own that forks commands, so that the worker, which writes executables, never does.
