//! Sockets to requests: listen, accept, serve a connection, drain. Knows HTTP, not what the requests mean.

mod coalesce;
mod connection;
pub(crate) mod dispatch;
pub(crate) mod listen;
mod outbox;
mod pieces;
mod request_body;
mod sent_body;
pub(crate) mod server;
mod stall;
#[cfg(test)]
mod tests;
pub(crate) mod threads;
pub(crate) mod tls;
