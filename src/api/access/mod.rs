//! The API's door: who asks, and whether they may.
//!
//! ```text
//! data dir ──▶ credentials ──▶ server (TLS)
//! request ──▶ authenticate (who) ──▶ authorize (may they) ──▶ handler
//!                                         └──▶ review (asked by clients)
//! ```
//!
//! Called by the handler and the server alone; what a request does afterwards knows only its [`User`].

pub mod authenticate;
pub mod authorize;
pub mod credentials;
mod pki;
pub mod review;

pub use authenticate::{Authenticator, PeerIdentity, User};
pub use authorize::{Attributes, authorize};
pub use credentials::{CredentialError, Credentials};
