//! Docker: one client per daemon, behind the seam of [`engine`].

pub mod engine;
pub mod labels;
