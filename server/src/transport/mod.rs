//! Sockets to requests: listen, serve a connection, drain. Knows HTTP, not what the requests mean.

pub(crate) mod listen;
