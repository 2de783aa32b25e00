//! The tonic services, a file each.
