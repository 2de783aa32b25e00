//! Who may do what, and how much of it.

pub(crate) mod instances;
pub(crate) mod limits;
pub(crate) mod silence;
pub(crate) mod yielding;
