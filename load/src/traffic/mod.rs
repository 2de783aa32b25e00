//! What is asked and what must come back: from a workload to requests, from answers to successes and faults.
//!
//! [`content`] makes blobs, [`message`] the bytes of requests (in [`protobuf`]), [`stock`] everything that is ready before the measured time,
//! [`mixed`] says what many builds ask for, [`source`] has the next request of a connection, [`answer`] judges what came (a blob's stream with [`read_stream`]). Nothing here touches a socket.

pub(crate) mod answer;
pub(crate) mod content;
pub(crate) mod message;
pub(crate) mod mixed;
pub(crate) mod operation;
pub(crate) mod protobuf;
pub(crate) mod read_stream;
pub(crate) mod source;
pub(crate) mod stock;
