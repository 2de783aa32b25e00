//! The worker: leases actions from a server, makes their input roots, has a runner run them, uploads what they made.
